from __future__ import annotations

import logging
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from realformats import write_idx, write_mnist
from torch import Tensor, nn

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.datamodules import DigitsDataModule, EvalLoader, MNISTDataModule, TrainLoader
from pixelgan_lightning.datamodules.pixels import binarise, quantise
from pixelgan_lightning.errors import ConfigurationError

IMAGES = torch.randint(0, 17, (103, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
LABELS = torch.arange(103) % 10
UNLABELLED = torch.arange(3, 103)
LABELLED = torch.arange(10, 40)


def train_loader(**changes: Any) -> TrainLoader:
    arguments: dict[str, Any] = {"batch_size": 16, "labelled_batch_size": 14, "levels": 17, "seed": 5}
    arguments.update(changes)
    batch_size = arguments.pop("batch_size")
    return TrainLoader(IMAGES, UNLABELLED, batch_size, labels=LABELS, labelled=LABELLED, **arguments)


def flat(batch: dict[str, Any]) -> list[Tensor]:
    return [value for stream in batch.values() for value in stream.values()]


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(flat(x), flat(y), strict=True)
    )


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    return str(root)


def digits(**arguments: Any) -> DigitsDataModule:
    module = DigitsDataModule(**arguments)
    module.prepare_data()
    module.setup()
    return module


def on_process(module: Any, rank: int, world_size: int, overfit_batches: int = 0) -> Any:
    module.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        overfit_batches=overfit_batches,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return module


# --- training batches ---------------------------------------------------------------------------------------------


def test_unlabelled_images_come_at_most_once_per_epoch_in_an_order_of_their_own() -> None:
    loader = train_loader()
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(torch.cat([batch["unlabelled"]["index"] for batch in loader]))
    for index in epochs:
        assert len(index) == 96 == 16 * len(loader)
        assert len(index.unique()) == 96
        assert set(index.tolist()) <= set(UNLABELLED.tolist())
    assert not torch.equal(*epochs)
    loader.set_epoch(0)
    assert torch.equal(torch.cat([batch["unlabelled"]["index"] for batch in loader]), epochs[0])
    assert not torch.equal(torch.cat([batch["unlabelled"]["index"] for batch in train_loader(seed=6)]), epochs[0])


def test_batches_hold_what_they_name() -> None:
    for batch in train_loader():
        for stream in batch.values():
            assert stream["image"].dtype == torch.float32
            assert torch.equal(stream["image"], IMAGES[stream["index"]].float() / 16)
        assert torch.equal(batch["labelled"]["label"], LABELS[batch["labelled"]["index"]])
        assert batch["unlabelled"]["index"].shape == (16,)
        assert batch["labelled"]["image"].shape == (14, 1, 4, 4)
        assert set(batch["labelled"]["index"].tolist()) <= set(LABELLED.tolist())


@pytest.mark.parametrize("augmentation", [None, RandomAffine()], ids=["plain", "augmented"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_two_processes_see_the_batches_of_one(dynamic: bool, augmentation: RandomAffine | None) -> None:
    options: dict[str, Any] = {"dynamic": dynamic, "augmentation": augmentation}
    one = train_loader(**options)
    ranks = [train_loader(**options, batch_size=8, labelled_batch_size=7, rank=r, world_size=2) for r in range(2)]
    for loader in (one, *ranks):
        loader.set_epoch(3)
    joined = [
        {s: {k: torch.cat([left[s][k], right[s][k]]) for k in left[s]} for s in left}
        for left, right in zip(*ranks, strict=True)
    ]
    assert len(joined) == 6
    assert same(list(one), joined)


def test_labelled_stream_shows_every_image_before_repeating_one_across_epochs() -> None:
    loader = train_loader()
    stream = []
    for epoch in range(5):
        loader.set_epoch(epoch)
        stream += [batch["labelled"]["index"] for batch in loader]
    index = torch.cat(stream)  # 5 epochs x 6 steps x 14 = 420 = 14 cycles of 30
    cycles = index.view(14, 30)
    for cycle in cycles:
        assert torch.equal(cycle.sort().values, LABELLED)
    assert not torch.equal(cycles[0], cycles[1])


def test_file_order_repeats_the_same_batches_every_epoch() -> None:
    loader = train_loader(shuffle=False, dynamic=True)
    first = list(loader)
    loader.set_epoch(1)
    assert same(first, list(loader))
    assert torch.equal(torch.cat([batch["unlabelled"]["index"] for batch in first]), UNLABELLED[:96])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("consumed", [1, 4, 6])
def test_resume_continues_behind_the_batches_consumed(consumed: int, shuffle: bool) -> None:
    killed = train_loader(dynamic=True, shuffle=shuffle)
    killed.set_epoch(2)
    complete = list(killed)
    iterator = iter(killed)
    for _ in range(consumed):
        next(iterator)
    state = killed.state_dict()
    assert state == {"epoch": 2, "position": consumed}

    resumed = train_loader(dynamic=True, shuffle=shuffle)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = iter(resumed)  # Lightning creates the iterator first and announces the epoch then
    resumed.set_epoch(2)
    assert same(list(rest), complete[consumed:])
    assert resumed.state_dict() == {"epoch": 2, "position": 6}
    assert same(list(resumed), complete)  # the position was used up
    resumed.load_state_dict(state)
    resumed.set_epoch(3)  # a new epoch begins at its first batch
    killed.set_epoch(3)
    assert same(list(resumed), list(killed))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_workers_prepare_the_same_batches() -> None:
    alone, helped = (train_loader(dynamic=True, num_workers=n, current_epoch=lambda: 2) for n in (0, 2))
    complete = []
    for loader in (alone, helped):
        loader.set_epoch(2)
        complete.append(list(loader))
    assert same(*complete)
    random_state = torch.get_rng_state()
    iterator = iter(helped)
    for _ in range(3):
        next(iterator)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert helped.state_dict() == {"epoch": 2, "position": 3}  # not what they have prepared already
    helped.load_state_dict(helped.state_dict())
    assert same(list(helped), complete[0][3:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 101}, "batch_size=101 on 1 process.* 100 images to train on.* at most 100"),
        ({"batch_size": 51, "world_size": 2}, "batch_size=51 on 2 process.* takes 102 .* at most 50"),
        ({"labelled_batch_size": 16, "world_size": 2}, "labelled_batch_size=16 on 2 .* 30 labelled.* zero steps.* 15"),
    ],
)
def test_a_global_batch_larger_than_its_images_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train_loader(**changes)


# --- evaluation batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 100), (2, 3), (3, 7), (4, 1)])
def test_evaluation_shards_cover_the_rows_exactly_once(world_size: int, batch_size: int) -> None:
    rows = torch.arange(5, 18)  # 13: no multiple of 2, 3 or 4
    seen = []
    for rank in range(world_size):
        loader = EvalLoader(IMAGES, LABELS, rows, batch_size, levels=17, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert torch.equal(batch["image"], IMAGES[batch["index"]].float() / 16)
            assert torch.equal(batch["label"], LABELS[batch["index"]])
            seen += batch["index"].tolist()
    assert sorted(seen) == rows.tolist()
    if world_size == 1:
        assert seen == rows.tolist()


@pytest.mark.parametrize("rank", [0, 3])
def test_fewer_images_than_processes_are_refused_on_every_process(rank: int) -> None:
    """One that has none would wait for the others, or end in a traceback."""
    with pytest.raises(ConfigurationError, match=r"devices=4 is not usable with 3 images .* allowed are at most 3"):
        EvalLoader(IMAGES, LABELS, torch.arange(3), 10, levels=17, rank=rank, world_size=4)


# --- levels and binarisation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("native", "levels"), [(256, 4), (256, 7), (256, 256), (17, 2), (17, 5)])
def test_quantisation_bins_are_of_equal_width(native: int, levels: int) -> None:
    stored = torch.arange(native, dtype=torch.uint8).view(-1, 1, 1, 1)
    level = quantise(stored, native, levels).flatten().tolist()
    assert level == [v * levels // native for v in range(native)]
    counts = Counter(level)
    assert set(counts) == set(range(levels))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_images_are_exactly_level_over_top_level() -> None:
    for levels in (5, 17):
        image = torch.cat([batch["image"] for batch in digits(levels=levels).test_dataloader()])
        assert torch.equal(image.unique(), torch.arange(levels, dtype=torch.float32) / (levels - 1))


def test_threshold_is_one_above_half_grey(mnist_dir: str) -> None:
    module = MNISTDataModule(mnist_dir, num_val=100, binarization="threshold")
    stored, _ = module.load_split("test")
    (batch,) = module.test_dataloader()
    assert torch.equal(batch["image"], (stored.double() / 255 > 0.5).float())


def test_binarisation_draws_with_the_grey_value_as_probability() -> None:
    grey = torch.tensor([0, 64, 128, 200, 255], dtype=torch.uint8).expand(20_000, 1, 1, 5)
    frequency = binarise(grey, 256, "key").double().mean(dim=0).flatten()
    expected = torch.tensor([0, 64, 128, 200, 255], dtype=torch.float64) / 255
    assert (frequency - expected).abs().max() < 0.02  # 5.6 standard deviations
    assert frequency[0] == 0
    assert frequency[4] == 1
    # The draw of an image does not depend on how many follow, also across groups.
    assert torch.equal(binarise(grey, 256, "key")[:1500], binarise(grey[:1500], 256, "key"))
    assert not torch.equal(binarise(grey, 256, "key"), binarise(grey, 256, "other key"))


def images_of(loader: Any, stream: str | None = None) -> Tensor:
    """The images of a loader, sorted by index so that loaders of different order can be compared."""
    parts = [batch[stream] if stream else batch for batch in loader]
    order = torch.cat([part["index"] for part in parts]).argsort(stable=True)
    return torch.cat([part["image"] for part in parts])[order]


def epoch_images(module: DigitsDataModule, epoch: int) -> Tensor:
    loader = module.train_dataloader()
    loader.set_epoch(epoch)
    return images_of(loader, "unlabelled")


def test_dynamic_binarisation_is_drawn_anew_in_training_only() -> None:
    module = digits(binarization="dynamic", batch_size=399)  # three batches: every image is visited in every epoch
    grey = images_of(digits(batch_size=399).train_dataloader(), "unlabelled")
    epochs = torch.stack([epoch_images(module, epoch) for epoch in range(40)])
    assert set(epochs.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epoch_images(module, 0))
    for level in range(17):
        where = grey == level / 16
        assert epochs[:, where].mean().item() == pytest.approx(level / 16, abs=0.02)
    # The visits of one image are independent: the variance over epochs is that of a Bernoulli variable.
    variance = epochs.var(dim=0)
    assert variance.mean().item() == pytest.approx((grey * (1 - grey)).mean().item(), abs=0.005)

    evaluation = images_of(module.val_dataloader())
    assert torch.equal(evaluation, images_of(module.val_dataloader()))
    assert torch.equal(evaluation, images_of(digits(binarization="dynamic", eval_batch_size=7).val_dataloader()))
    assert not torch.equal(evaluation, images_of(digits(binarization="dynamic", seed=1).val_dataloader()))
    second = on_process(digits(binarization="dynamic"), rank=1, world_size=2).val_dataloader()
    assert torch.equal(evaluation[1::2], images_of(second))


def test_dynamic_binarisation_draws_differ_between_images_steps_streams_and_epochs() -> None:
    loader = TrainLoader(
        torch.full((64, 1, 16, 16), 8, dtype=torch.uint8),
        torch.arange(64),
        16,
        levels=17,
        dynamic=True,
        labels=torch.zeros(64, dtype=torch.int64),
        labelled=torch.arange(16),
        labelled_batch_size=16,
    )
    images = [stream["image"] for batch in loader for stream in batch.values()]
    loader.set_epoch(1)
    images += [stream["image"] for batch in loader for stream in batch.values()]
    assert len(torch.cat(images).unique(dim=0)) == 2 * 4 * 2 * 16


def test_fixed_binarisation_is_the_same_at_every_visit() -> None:
    module = digits(binarization="fixed", batch_size=399)
    assert torch.equal(epoch_images(module, 0), epoch_images(module, 1))
    assert torch.equal(epoch_images(module, 0), images_of(module.predict_dataloader()[0]))
    assert torch.equal(epoch_images(module, 0), epoch_images(digits(binarization="fixed", batch_size=399, seed=1), 0))
    other = digits(binarization="fixed", batch_size=399, binarization_seed=1)
    assert not torch.equal(epoch_images(module, 0), epoch_images(other, 0))


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold"])
def test_binarised_images_have_two_levels(binarization: Any) -> None:
    module = digits(binarization=binarization)
    assert module.levels == 2
    for loader in (module.val_dataloader(), module.test_dataloader()):
        assert images_of(loader).unique().tolist() == [0.0, 1.0]


# --- splits -------------------------------------------------------------------------------------------------------


def test_digits_splits_are_disjoint_complete_and_stratified() -> None:
    module = digits()
    _, labels = module.load_split("train")
    splits = [module.split_indices(split) for split in module.predict_split_names]
    assert [len(rows) for rows in splits] == [1197, 300, 300]
    assert torch.equal(torch.cat(splits).sort().values, torch.arange(1797))
    whole = labels.bincount() / 1797
    for rows in splits:
        assert (labels[rows].bincount(minlength=10) - whole * len(rows)).abs().max() <= 1.5
    assert not torch.equal(splits[1], digits(split_seed=1).split_indices("val"))
    assert torch.equal(splits[1], digits(seed=1).split_indices("val"))


def test_labelled_images_are_balanced_and_from_the_training_split() -> None:
    module = digits(num_labelled=50, labelled_batch_size=50)
    rows = module.labelled_indices
    assert rows is not None
    _, labels = module.load_split("train")
    assert labels[rows].bincount().tolist() == [5] * 10
    assert len(rows.unique()) == 50
    train, val, test = (set(module.split_indices(split).tolist()) for split in module.predict_split_names)
    assert set(rows.tolist()) <= train
    assert not set(rows.tolist()) & (val | test)
    loader = module.train_dataloader()
    assert set(loader.unlabelled.tolist()) == train  # the labelled images stay in the unlabelled set
    assert torch.equal(next(iter(loader))["labelled"]["index"].sort().values, rows)


def test_labelled_draw_depends_on_label_seed_and_not_on_seed() -> None:
    def draw(**seeds: int) -> list[int]:
        rows = digits(num_labelled=100, **seeds).labelled_indices
        assert rows is not None
        return rows.tolist()

    assert draw() == draw() == draw(seed=1)
    assert draw() != draw(label_seed=1)


def test_split_hash_follows_the_splits() -> None:
    hashes = [
        digits(**arguments).split_hash
        for arguments in (
            {},
            {"seed": 1},
            {"split_seed": 1},
            {"num_labelled": 100},
            {"num_labelled": 100, "label_seed": 1},
        )
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[1:])) == 4


def test_setup_tells_the_sizes_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    module = on_process(DigitsDataModule(num_labelled=100, labelled_batch_size=50), rank=0, world_size=2)
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    (line,) = [record.message for record in caplog.records if "DigitsDataModule" in record.message]
    for part in (
        "1197 training",
        "300 validation",
        "9 steps",
        "64 per process (128",
        "100 labelled",
        "50 per process (100",
    ):
        assert part in line


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 .*allowed are 1, 2"),
        ({"eval_batch_size": 0}, "eval_batch_size=0 .*allowed are 1, 2"),
        ({"labelled_batch_size": 0}, "labelled_batch_size=0 .*allowed are 1, 2"),
        ({"num_labelled": 0}, "num_labelled=0 .*positive multiples of 10"),
        ({"num_labelled": -10}, "num_labelled=-10 .*positive multiples of 10"),
        ({"num_labelled": 15}, "num_labelled=15 .*positive multiples of 10"),
        ({"num_labelled": 1200}, "num_labelled=1200 .*at most 1197"),
        ({"num_labelled": 1190}, "num_labelled=1190 asks for 119 .* of class 8: allowed are at most 1160"),
        ({"num_labelled": 50}, "labelled_batch_size=100 on 1 .*zero steps.*at most 50"),
        ({"batch_size": 1198}, "batch_size=1198 on 1 .*at most 1197"),
        ({"binarization": "larochelle"}, "binarization='larochelle' .*none, dynamic, fixed, threshold"),
        ({"levels": 1}, "levels=1 .*allowed are null and 2 to 17"),
        ({"levels": 18}, "levels=18 .*allowed are null and 2 to 17"),
        ({"levels": 17, "binarization": "dynamic"}, "levels=17 .*'dynamic': allowed are null and 2$"),
    ],
)
def test_unusable_arguments_are_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        digits(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.float(), y), "train file has torch.float32 images"),
        (lambda x, y: (x, y.int()), "train file has torch.int32 labels"),
        (lambda x, y: (x[:, :, 1:], y), r"images of shape \(1, 7, 8\): allowed are images of shape \(1, 8, 8\)"),
        (lambda x, y: (x[:0], y[:0]), "no images"),
        (lambda x, y: (x, y[1:]), "1797 images and 1796 labels"),
        (lambda x, y: (x, y + 1), "labels from 1 to 10: allowed are 0 to 9"),
        (lambda x, y: (x, y - 2), "labels from -2 to 7: allowed are 0 to 9, and -1"),
        (lambda x, y: (x + 1, y), "grey levels up to 17: allowed are 0 to 16"),
    ],
)
def test_files_that_do_not_hold_what_they_should_are_refused(change: Any, message: str) -> None:
    module = DigitsDataModule()
    load = module.load_split
    module.load_split = lambda source: change(*load(source))  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=message):
        module.setup("fit")


# --- MNIST --------------------------------------------------------------------------------------------------------


def test_mnist_reads_the_real_format(mnist_dir: str, capfd: pytest.CaptureFixture[str]) -> None:
    module = MNISTDataModule(mnist_dir, num_val=100, num_labelled=20, labelled_batch_size=10)
    module.prepare_data()
    module.setup("test")  # no message either: that belongs to fit
    assert capfd.readouterr() == ("", "")
    assert [len(module.split_indices(split)) for split in module.predict_split_names] == [200, 100, 60]
    assert torch.equal(module.split_indices("val"), torch.arange(200, 300))
    assert module.levels == 2
    batch = next(iter(module.train_dataloader()))
    assert batch["unlabelled"]["image"].shape == (64, *module.image_shape)
    assert batch["labelled"]["image"].unique().tolist() == [0.0, 1.0]

    grey = MNISTDataModule(mnist_dir, num_val=100, binarization="none")
    stored, labels = grey.load_split("test")
    batch = next(iter(grey.test_dataloader()))
    assert torch.equal(batch["label"], labels)
    assert torch.equal(batch["image"], stored.float() / 255)
    assert labels.tolist() == [i % 10 for i in range(60)]


def test_smaller_mnist_is_the_mean_of_squares(mnist_dir: str) -> None:
    large = MNISTDataModule(mnist_dir, num_val=100, binarization="none")
    small = MNISTDataModule(mnist_dir, num_val=100, binarization="none", side=14)
    assert small.image_shape == (1, 14, 14)
    images, means = large.load_split("test")[0].double(), small.load_split("test")[0]
    by_hand = sum(images[:, :, i::2, j::2] for i in range(2) for j in range(2)) / 4
    assert means.dtype == torch.uint8
    assert (by_hand - means).abs().max() <= 0.5
    with pytest.raises(ConfigurationError, match=r"side=16 is not usable: allowed are 28, 14 and 7"):
        MNISTDataModule(mnist_dir, side=16)


def test_mnist_folder_comes_from_the_environment(mnist_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELGAN_DATA", mnist_dir)
    assert MNISTDataModule().data_dir == mnist_dir
    assert MNISTDataModule("elsewhere").data_dir == "elsewhere"
    monkeypatch.delenv("PIXELGAN_DATA")
    assert MNISTDataModule().data_dir == "data"


def test_mnist_reads_only_what_a_stage_needs(mnist_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, expected in (
        ("fit", ["train"]),
        ("validate", ["train"]),
        ("test", ["test"]),
        ("predict", ["train", "test"]),
    ):
        module = MNISTDataModule(mnist_dir, num_val=100)
        read: list[str] = []
        load = module.load_split
        monkeypatch.setattr(
            module, "load_split", lambda source, read=read, load=load: read.append(source) or load(source)
        )
        module.setup(stage)
        module.setup(stage)
        assert read == expected


@pytest.mark.parametrize("num_val", [0, 300])
def test_mnist_validation_must_leave_training_images(mnist_dir: str, num_val: int) -> None:
    with pytest.raises(ConfigurationError, match=f"num_val={num_val} .*300 images.* 1 to 299"):
        MNISTDataModule(mnist_dir, num_val=num_val).setup("fit")


def test_missing_mnist_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setattr(MNISTDataModule, "url", "https://127.0.0.1:9")  # nobody listens there
    for module, reason in (
        (MNISTDataModule(str(tmp_path), download=False), "download=False"),
        (MNISTDataModule(str(tmp_path)), "the download failed: .*refused"),
    ):
        message = f"data_dir='{tmp_path}' lacks t10k-labels-idx1-ubyte .*{reason}.*MNIST/raw$"
        with pytest.raises(ConfigurationError, match=message) as caught:
            module.prepare_data()
        assert "\n" not in str(caught.value)
        with pytest.raises(ConfigurationError, match="lacks t10k-labels-idx1-ubyte"):
            module.setup("fit")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("length", [0, 3, 10, 200])
def test_a_truncated_mnist_file_is_named(tmp_path: Path, name: str, length: int) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigurationError, match=f"{name} is damaged"):
        MNISTDataModule(str(tmp_path)).setup("fit")


def test_swapped_mnist_files_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", torch.zeros(3, 4, 4))
    with pytest.raises(ConfigurationError, match="train-labels-idx1-ubyte is damaged or no IDX"):
        MNISTDataModule(str(tmp_path)).setup("fit")


@pytest.mark.realdata
def test_real_mnist(real_data: Path) -> None:
    module = MNISTDataModule(str(real_data), binarization="none", num_labelled=100, download=False)
    module.prepare_data()
    module.setup()
    assert [len(module.split_indices(split)) for split in module.predict_split_names] == [50_000, 10_000, 10_000]
    stored, labels = module.load_split("train")
    assert stored.double().mean() / 255 == pytest.approx(
        0.1307, abs=5e-5
    )  # of the 60,000 images, as commonly published
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels[module.labelled_indices].bincount().tolist() == [10] * 10
    assert len(module.train_dataloader()) == 50_000 // 64


# --- under Lightning ----------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Notes which images every step gets, and fails on purpose where told to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, dict[str, Any]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch))
        return self.weight * 0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated += batch["index"].tolist()

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", devices=1, **quiet, **{"enable_checkpointing": False, **arguments})


def lightning_digits() -> DigitsDataModule:
    return DigitsDataModule(batch_size=300, num_labelled=100, labelled_batch_size=40, binarization="dynamic")


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("limit_train_batches", [1.0, 2])
@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 6}])
@pytest.mark.parametrize("when", ["batch", "validation", "epoch"])
def test_lightning_continues_a_killed_run_with_the_batches_it_would_have_had(
    tmp_path: Path, when: str, length: dict[str, int], limit_train_batches: float
) -> None:
    saving: dict[str, Any] = {
        "filename": "{step}",
        "save_top_k": -1,
        "every_n_train_steps": 1 if when == "batch" else None,
        "every_n_epochs": None if when == "batch" else 1,
        "save_on_train_epoch_end": when == "epoch",
    }
    checkpoints = ModelCheckpoint(dirpath=tmp_path, **saving)
    options = {**length, "limit_train_batches": limit_train_batches}
    complete = Recorder()
    trainer(**options, callbacks=[checkpoints], enable_checkpointing=True).fit(complete, lightning_digits())
    batches = [batch for *_, batch in complete.seen]
    assert not same(batches[:2], batches[2:4])
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == (len(batches) if when == "batch" else len({epoch for epoch, *_ in complete.seen}))
    for path in paths:
        done = int(path.stem.removeprefix("step="))
        again = ModelCheckpoint(dirpath=tmp_path / path.stem, **saving)
        resumed = Recorder()
        trainer(**options, callbacks=[again], enable_checkpointing=True).fit(
            resumed, lightning_digits(), ckpt_path=path
        )
        assert [step[:2] for step in resumed.seen] == [step[:2] for step in complete.seen[done:]]
        assert same([batch for *_, batch in resumed.seen], batches[done:])
    # Killed for a second time: from the second checkpoint of the run that continued at the first.
    last = sorted((tmp_path / paths[0].stem).glob("*.ckpt"))[0]
    done = int(last.stem.removeprefix("step="))
    resumed = Recorder()
    trainer(**options).fit(resumed, lightning_digits(), ckpt_path=last)
    assert same([batch for *_, batch in resumed.seen], batches[done:])


def test_lightning_overfits_on_the_first_batches() -> None:
    model = Recorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*overfit.*")
        trainer(max_epochs=3, overfit_batches=2).fit(model, lightning_digits())
    epochs = [[batch for epoch, _, batch in model.seen if epoch == e] for e in range(3)]
    assert [len(epoch) for epoch in epochs] == [2, 2, 2]
    assert same(epochs[0], epochs[1])
    assert same(epochs[0], epochs[2])
    module = lightning_digits()
    assert torch.equal(
        torch.cat([batch["unlabelled"]["index"] for batch in epochs[0]]), module.split_indices("train")[:600]
    )
    assert model.validated == 3 * module.split_indices("val").tolist()  # 300 images are two batches of 250 or fewer


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_lightning_continues_to_overfit_on_the_first_batches(tmp_path: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="end", save_on_train_epoch_end=True)
    killed, resumed = Recorder(), Recorder()
    options = {"max_epochs": -1, "overfit_batches": 2}
    trainer(**options, max_steps=2, callbacks=[saving], enable_checkpointing=True).fit(killed, lightning_digits())
    trainer(**options, max_steps=4).fit(resumed, lightning_digits(), ckpt_path=tmp_path / "end.ckpt")
    assert same([batch for *_, batch in killed.seen], [batch for *_, batch in resumed.seen])


def test_lightning_predicts_all_splits_in_order() -> None:
    module = lightning_digits()
    predictions = trainer().predict(Recorder(), module)
    assert predictions is not None
    for split, batches in zip(module.predict_split_names, predictions, strict=True):
        assert torch.equal(torch.cat(batches), module.split_indices(split))


def test_works_without_a_trainer() -> None:
    module = DigitsDataModule()
    module.prepare_data()
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert set(batch) == {"unlabelled"}
    assert batch["unlabelled"]["image"].shape == (64, 1, 8, 8)
    assert len(list(islice(module.train_dataloader(), 100))) == 18
