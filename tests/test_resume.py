"""A run that is killed and continued equals the run that was not killed, bit by bit."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import SMALL, all_phases, load_step, pixelgan, refused
from processes import KILLED, kill_this_process, start, start_ranks, wait
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.callbacks import RunCheckpoint
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError, RunError
from pixelgan_lightning.files import checkpoint_io
from pixelgan_lightning.files.checkpoint_io import AtomicCheckpointIO
from pixelgan_lightning.priors import Categorical

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


CALLBACKS = [
    {"class_path": "ClusterAccuracy"},
    {"class_path": "SampleGrid", "init_args": {"columns": 1, "max_rows": 3, "reconstructions": 2}},
]
AVERAGE = {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}}
TRAINER = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    # A checkpoint after every batch; two validations per epoch of four batches, one of them in its middle.
    "unlabelled": {
        "seed_everything": 3,
        "trainer": {**TRAINER, "limit_train_batches": 4, "val_check_interval": 2, "callbacks": CALLBACKS},
        "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 32, "eval_batch_size": 20}},
        "checkpoint": {"every_n_train_steps": 1},
    },
    # A schedule that falls over the whole run.
    "labelled": {
        "seed_everything": 4,
        "model": {"phases": all_phases(reconstruction={"schedule": "cosine"}, agreement=None)},
        "trainer": {**TRAINER, "callbacks": [*CALLBACKS, AVERAGE]},
        "data": {
            "class_path": "DigitsDataModule",
            "init_args": {"batch_size": 32, "eval_batch_size": 20, "num_labelled": 20, "labelled_batch_size": 15},
        },
        "checkpoint": {"every_n_train_steps": 1},
    },
    # All phases in one step; pairs of neighbours until the second epoch has begun.
    "fused": {
        "seed_everything": 5,
        "model": {
            "step": "fused",
            "phases": all_phases(agreement={"neighbour_steps": 4}),
            "augmentation": {"class_path": "RandomAffine"},
        },
        "trainer": {**TRAINER, "callbacks": [*CALLBACKS, AVERAGE]},
        "data": {
            "class_path": "DigitsDataModule",
            "init_args": {"batch_size": 32, "num_labelled": 20, "labelled_batch_size": 15, "neighbours": 3},
        },
        "checkpoint": {"every_n_train_steps": 1},
    },
    # Lightning's default: a checkpoint after each validation.
    "validated": {"trainer": {**TRAINER, "callbacks": CALLBACKS}},
    "seldom validated": {
        "trainer": {**TRAINER, "max_epochs": 4, "check_val_every_n_epoch": 2, "callbacks": [*CALLBACKS, AVERAGE]}
    },
}


def fit_arguments(name: str) -> list[object]:
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(CONFIGS[name]))
    return ["fit", "--config", SMALL, "--config", path]


# ------------------------------------------------------------------------------------------------------------- kills


def before(method: str, when: Callable[[PixelGAN], bool]) -> None:
    """Let this process be killed where Lightning calls a hook of the model."""
    original = getattr(PixelGAN, method)

    def replaced(self: PixelGAN, *args: Any, **kwargs: Any) -> Any:
        if when(self):
            kill_this_process()
        return original(self, *args, **kwargs)

    setattr(PixelGAN, method, replaced)


def in_the_epoch(step: int) -> None:
    before("training_step", lambda model: model.global_step == step)


def in_the_validation(step: int) -> None:
    seen: list[int] = []
    before("validation_step", lambda model: seen.append(model.global_step) or seen.count(step) == 2)  # type: ignore[func-returns-value]


def behind_the_checkpoint(step: int) -> None:
    """Before anything that Lightning does after writing it: the log of the batch, a validation, the end."""
    write = AtomicCheckpointIO.save_checkpoint

    def replaced(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == step and Path(path).name == "last.ckpt":
            kill_this_process()

    AtomicCheckpointIO.save_checkpoint = replaced  # type: ignore[method-assign]


def in_the_writing(step: int) -> None:
    """When half of the bytes of ``last.ckpt`` are on the disk."""
    writes = 0

    def replaced(descriptor: int) -> None:
        nonlocal writes
        if os.fstat(descriptor).st_size > 4096:  # a file, not its folder
            writes += 1
            if writes == 2 * step:  # each checkpoint goes to its own file and to last.ckpt
                os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
                kill_this_process()

    checkpoint_io.os.fsync = replaced  # type: ignore[assignment]


KILLS: dict[str, tuple[str, Callable[[int], None], int, int, bool]] = {
    # config, where, at which step, how many steps the checkpoint left behind has, and whether what comes behind the
    # batch of this checkpoint is lost: its row of the logs and a validation
    "mid-epoch": ("unlabelled", in_the_epoch, 5, 5, False),
    "mid-epoch, gradients summed": ("labelled", in_the_epoch, 1, 1, False),
    "mid-epoch, fused": ("fused", in_the_epoch, 4, 4, False),
    "mid-epoch, default checkpoints": ("validated", in_the_epoch, 4, 3, False),
    "validation in the middle of an epoch": ("unlabelled", in_the_validation, 6, 6, True),
    "validation at the end of an epoch": ("labelled", in_the_validation, 3, 2, False),
    "last validation": ("labelled", in_the_validation, 6, 5, False),
    "validation, default checkpoints": ("validated", in_the_validation, 6, 3, False),
    "last batch of an epoch": ("labelled", behind_the_checkpoint, 3, 3, True),
    "batch before a validation": ("unlabelled", behind_the_checkpoint, 2, 2, True),
    "batch before none": ("unlabelled", behind_the_checkpoint, 3, 3, True),
    "last batch of all": ("unlabelled", behind_the_checkpoint, 8, 8, True),
    "after the last validation": ("validated", behind_the_checkpoint, 6, 6, True),
    "a checkpoint half written": ("labelled", in_the_writing, 4, 3, False),
}


# -------------------------------------------------------------------------------------------------------- comparisons


def series(run: Path) -> dict[tuple[str, int], str]:
    """The last value by column and step of all logs of a run, as text: bit-identical means equal."""
    values = {}
    for table in sorted(run.glob("fit*/metrics.csv"), key=lambda path: len(path.parent.name)):
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                values.update({(key, int(row["step"])): value for key, value in row.items() if value})
    return values


def pictures(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "images").glob("*.png")}


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert one == other, where


TRAINED = ("global_step", "epoch", "state_dict", "optimizer_states", "current_model_state")


def assert_same_run(complete: Path, run: Path, lost: Sequence[int] = ()) -> None:
    """Weights, their averages, optimizers, logs and pictures.

    ``lost`` are the steps of checkpoints that were written behind a batch, before its row of the logs and the
    validation after it: these alone may be missing.
    """
    contents = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (complete, run)]
    assert_equal(*({key: content[key] for key in TRAINED if key in content} for content in contents))
    expected, found = series(complete), series(run)
    assert {step for key, step in expected.keys() - found.keys()} <= {step - 1 for step in lost}
    assert found == {key: value for key, value in expected.items() if key in found}
    assert len(found) > 20
    drawn, missing = pictures(run), pictures(complete).keys() - pictures(run).keys()
    assert all(name.endswith(tuple(f"-step{step:07d}.png" for step in lost)) for name in missing)
    assert drawn == {name: picture for name, picture in pictures(complete).items() if name in drawn}
    assert len(drawn) >= 2


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the uninterrupted run of a configuration."""
    folder = tmp_path_factory.mktemp("complete")

    def get(name: str) -> Path:
        run = folder / name
        if not run.exists():
            pixelgan(*fit_arguments(name), "--run_dir", run)
        return run

    return get


# --------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_continues_as_if_nothing_had_happened(kill: str, complete: Callable[[str], Path]) -> None:
    config, where, step, left, lost = KILLS[kill]
    reference = complete(config)

    def run() -> None:
        where(step)
        pixelgan(*fit_arguments(config), "--run_dir", "run")

    assert wait(start(run)) == KILLED
    assert load_step(Path("run")) == left
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert_same_run(reference, Path("run"), [left] if lost else [])
    assert not list(Path("run").rglob("*.tmp"))


@pytest.mark.parametrize(
    "kill", ["mid-epoch, gradients summed", "last batch of an epoch", "validation in the middle of an epoch"]
)
def test_a_killed_run_with_loader_workers_equals_the_one_without(kill: str, complete: Callable[[str], Path]) -> None:
    config, where, step, left, lost = KILLS[kill]

    def run() -> None:
        where(step)
        pixelgan(*fit_arguments(config), "--run_dir", "run", "--data.init_args.num_workers", 2)

    assert wait(start(run)) == KILLED
    assert load_step(Path("run")) == left
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]["num_workers"] == 2
    assert_same_run(complete(config), Path("run"), [left] if lost else [])


def test_a_run_killed_twice(complete: Callable[[str], Path]) -> None:
    """In a validation in the middle of an epoch, in that at its end, and behind a checkpoint."""
    reference = complete("unlabelled")

    def run(where: Callable[[int], None], step: int, *args: object) -> Callable[[], None]:
        def killed() -> None:
            where(step)
            pixelgan(*args)

        return killed

    again = ("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert wait(start(run(in_the_validation, 2, *fit_arguments("unlabelled"), "--run_dir", "run"))) == KILLED
    assert wait(start(run(in_the_validation, 4, *again))) == KILLED
    assert load_step(Path("run")) == 3
    assert wait(start(run(behind_the_checkpoint, 5, *again))) == KILLED
    assert load_step(Path("run")) == 5
    pixelgan(*again)
    assert_same_run(reference, Path("run"), [2, 5])


@pytest.mark.parametrize("config", ["seldom validated", "validated", "unlabelled"])
def test_a_run_in_parts_equals_the_run_in_one(config: str, complete: Callable[[str], Path]) -> None:
    """Parts that end within an epoch, at the end of one, and there with or without a validation."""
    trainer = CONFIGS[config]["trainer"]
    first: list[object] = fit_arguments(config)
    for steps in (1, 2, 3, 4):
        pixelgan(*first, "--run_dir", "run", "--trainer.max_steps", steps)
        assert load_step(Path("run")) == steps
        first = ["fit", "--ckpt_path", "last"]
    for n in range(2, trainer["max_epochs"] + 1):
        pixelgan(*first, "--run_dir", "run", "--trainer.max_steps", -1, "--trainer.max_epochs", n)
        assert load_step(Path("run")) == trainer["limit_train_batches"] * n
    reference = complete(config)
    for picture in pictures(Path("run")).keys() - pictures(reference).keys():  # each part ends with one of its own
        Path("run/images", picture).unlink()
    assert_same_run(reference, Path("run"))


def test_a_finished_run_leaves_its_checkpoint_alone() -> None:
    pixelgan(*fit_arguments("seldom validated"), "--run_dir", "run", "--trainer.max_epochs", 3)
    before = {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()}
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()} == before


def test_without_the_command_line_a_continued_run_is_saved_too() -> None:
    data = DigitsDataModule(binarization="threshold", batch_size=32)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    last = None
    for steps in (2, 4):
        model = PixelGAN(data.image_shape, encoder=ConvEncoder([4], 8), decoder=GatedPixelCNN(4, 1, first_kernel=3))
        save = RunCheckpoint("run/checkpoints")
        trainer = pl.Trainer(max_steps=steps, check_val_every_n_epoch=10, callbacks=[save], accelerator="cpu", **quiet)
        trainer.fit(model, data, ckpt_path=last)
        last = "run/checkpoints/last.ckpt"
        assert load_step(Path("run")) == steps


def stopped(number: signal.Signals, method: str, when: Callable[[PixelGAN], bool]) -> int:
    """The exit status of a fit that a signal comes to."""

    def run() -> None:
        original = getattr(PixelGAN, method)

        def replaced(self: PixelGAN, *args: Any) -> Any:
            if when(self):
                os.kill(os.getpid(), number)
            return original(self, *args)

        setattr(PixelGAN, method, replaced)
        pixelgan(*fit_arguments("validated"), "--run_dir", "run")

    return wait(start(run, output=Path("output")))


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 4), (signal.SIGINT, 5)])
def test_a_signal_leaves_a_checkpoint(number: signal.Signals, step: int, complete: Callable[[str], Path]) -> None:
    assert stopped(number, "training_step", lambda model: model.global_step == step) == 128 + number
    said = f"stopped by {number.name} at step {step + 1}; checkpoint: {Path('run/checkpoints/last.ckpt').absolute()}"
    assert said in Path("output").read_text()
    assert load_step(Path("run")) == step + 1
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert_same_run(complete("validated"), Path("run"), [step + 1])


def test_a_signal_in_a_validation_lets_it_finish(complete: Callable[[str], Path]) -> None:
    once: list[int] = []
    status = stopped(signal.SIGTERM, "validation_step", lambda model: not once and not once.append(1))  # type: ignore[func-returns-value]
    assert status == 128 + signal.SIGTERM
    assert load_step(Path("run")) == 3
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert_same_run(complete("validated"), Path("run"))


def test_a_second_signal_ends_at_once() -> None:
    assert stopped(signal.SIGTERM, "validation_step", lambda model: True) == -signal.SIGTERM
    assert not list(Path("run").rglob("last.ckpt"))


# ---------------------------------------------------------------------------------------------------- several processes


def as_two(*args: object, prepare: Callable[[int], None] = lambda rank: None) -> list[int]:
    pids = start_ranks(2, *args, prepare=prepare)
    return [wait(pid, timeout=120) for pid in pids]


@pytest.fixture(scope="module")
def complete_as_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run of two processes, with labels, sums of gradients and averages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("two"))
        assert as_two(*for_two(), "--run_dir", "complete") == [0, 0]
        return Path("complete").absolute()


def for_two() -> list[object]:
    return [*fit_arguments("labelled"), "--data.init_args.batch_size", 16, "--data.init_args.labelled_batch_size", 8]


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_dies_the_other_ends_within_a_minute(victim: int, complete_as_two: Path) -> None:
    """Gloo by itself gives up after thirty minutes. The run continues."""

    def prepare(rank: int) -> None:
        if rank == victim:
            in_the_epoch(4)

    pids = start_ranks(2, *for_two(), "--run_dir", "run", prepare=prepare)
    assert wait(pids[victim]) == KILLED
    assert wait(pids[1 - victim], timeout=60) not in (0, KILLED)
    assert load_step(Path("run")) in (3, 4)
    assert as_two("fit", "--run_dir", "run", "--ckpt_path", "last") == [0, 0]
    assert_same_run(complete_as_two, Path("run"))


@pytest.mark.parametrize(
    ("where", "step", "left"),
    [(in_the_validation, 3, 2), (behind_the_checkpoint, 3, 3), (in_the_writing, 4, 3)],
    ids=["validation", "last batch of an epoch", "a checkpoint half written"],
)
def test_killed_runs_of_two_processes_continue(
    where: Callable[[int], None], step: int, left: int, complete_as_two: Path
) -> None:
    """Only the first process writes; the second is killed by what starts them, here by the test."""
    pids = start_ranks(2, *for_two(), "--run_dir", "run", prepare=lambda rank: where(step) if rank == 0 else None)
    assert wait(pids[0]) == KILLED
    os.kill(pids[1], signal.SIGKILL)
    wait(pids[1])
    assert load_step(Path("run")) == left
    assert as_two("fit", "--run_dir", "run", "--ckpt_path", "last") == [0, 0]
    assert_same_run(complete_as_two, Path("run"))


def test_a_signal_to_one_process_stops_all_at_the_same_step() -> None:
    def prepare(rank: int) -> None:
        original = PixelGAN.training_step

        def replaced(self: PixelGAN, batch: Any, batch_idx: int) -> None:
            if rank == 1 and self.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self, batch, batch_idx)

        PixelGAN.training_step = replaced  # type: ignore[method-assign]

    assert as_two(*fit_arguments("validated"), "--run_dir", "run", prepare=prepare) == [128 + signal.SIGTERM, 0]
    assert load_step(Path("run")) == 2


def test_a_loss_that_is_not_finite_on_one_process_ends_all_with_a_line() -> None:
    def prepare(rank: int) -> None:
        original = PixelGAN.reconstruct

        def replaced(self: PixelGAN, x: Tensor, z: Tensor) -> Tensor:
            return original(self, x, z) * (float("nan") if rank == 1 and self.global_step == 1 else 1.0)

        PixelGAN.reconstruct = replaced  # type: ignore[method-assign]

    every = ["--checkpoint.every_n_train_steps", 1]
    assert as_two("fit", "--config", SMALL, *every, "--run_dir", "run", prepare=prepare) == [1, 1]
    for rank, what in enumerate(("norm of the gradient", "loss")):
        last = Path(f"rank{rank}").read_text().splitlines()[-1]
        assert last.startswith(f"error: the {what} of the reconstruction phase is nan at step 1 (batch 1 of epoch 0)")
    assert load_step(Path("run")) == 1


def test_fewer_labels_than_processes_are_refused() -> None:
    labels = ["--data.num_labelled", 10, "--data.labelled_batch_size", 6]
    assert as_two("fit", "--config", SMALL, *labels, "--run_dir", "run") == [2, 2]
    for rank in range(2):
        lines = [line for line in Path(f"rank{rank}").read_text().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "labelled_batch_size=6 on 2 process(es) takes 12 images per step" in lines[0]


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def run(complete: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete("labelled"), tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--data.batch_size", 16],
            "batch_size=16 on 1 process(es), 16 images per step, does not continue a run with 32",
        ),
        (["--data.labelled_batch_size", 10], "labelled_batch_size=10 on 1 process(es), 10 images per step, does not"),
        (["--data.label_seed", 7], "does not continue a run with split_hash="),
        (
            ["--seed_everything", 5],
            "seed_everything=5 does not continue a run with seed_everything=4: allowed is the same",
        ),
    ],
)
def test_another_stream_of_images_is_refused(
    arguments: list[object], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "fit", "--run_dir", run, "--ckpt_path", "last", *arguments)


def test_what_is_new_about_the_data_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--data.init_args.binarization", "threshold", "--data.init_args.eval_batch_size", 30]
    with pytest.raises(SystemExit):  # the likelihood has 17 levels; what matters is said before
        pixelgan("fit", "--run_dir", run, "--ckpt_path", "last", *changes)
    said = [line for line in capsys.readouterr().out.splitlines() if "from here on" in line]
    assert said == [
        "data.init_args.eval_batch_size: 30 from here on, the run had 20",
        "data.init_args.binarization: 'threshold' from here on, the run had 'none'",
    ]


@pytest.mark.parametrize("path", ["DigitsDataModule", "pixelgan_lightning.datamodules.DigitsDataModule"])
def test_data_that_are_named_again_are_those_of_the_run(
    path: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is said about them is laid over what the run had."""
    again = ["fit", "--run_dir", run, "--ckpt_path", "last", "--data", path]
    pixelgan(*again, "--data.eval_batch_size", 30, "--print_config")
    printed = capsys.readouterr().out
    data = yaml.safe_load(printed[printed.index("seed_everything:") :])["data"]["init_args"]
    assert (data["eval_batch_size"], data["batch_size"], data["labelled_batch_size"]) == (30, 32, 15)
    said = [line for line in printed.splitlines() if "from here on" in line]
    assert said == ["data.init_args.eval_batch_size: 30 from here on, the run had 20"]


def test_other_data_are_named(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((300, 8, 8), np.uint8))
    mine = ["--data", "ImageTensorDataModule", "--data.train_path", tmp_path / "x.npz", "--data.levels", 17]
    with pytest.raises(SystemExit):
        pixelgan("fit", "--run_dir", run, "--ckpt_path", "last", *mine)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "from here on" in line]
    assert re.fullmatch(r"data: '\S+ImageTensorDataModule' from here on, the run had '\S*DigitsDataModule'", line)


def test_as_many_images_per_step_on_another_number_of_processes_continue(run: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["pixelgan_lightning"]["images_per_step"] == {"batch_size": 32, "labelled_batch_size": 15}
    content["pixelgan_lightning"]["images_per_step"] = {"batch_size": 64, "labelled_batch_size": 20}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    sizes = ["--data.batch_size", 32, "--data.labelled_batch_size", 10]
    assert as_two("fit", "--run_dir", run, "--ckpt_path", "last", *sizes, "--trainer.max_epochs", 3) == [0, 0]
    assert load_step(run) == 9


def test_a_checkpoint_says_where_it_comes_from(run: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert yaml.safe_load(content["pixelgan_lightning_config"]) == yaml.safe_load((run / "config.yaml").read_text())
    assert len(content["pixelgan_lightning"]["split_hash"]) == 64
    assert content["pixelgan_lightning"]["version"]


def test_a_checkpoint_holds_no_images(run: Path) -> None:
    """It may go to a server, as an artifact."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)

    def tensors(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
        return [tensor for item in values for tensor in tensors(item)]

    assert any("SampleGrid" in key for key in content["callbacks"])
    assert not [tensor for tensor in tensors(content["callbacks"]) if tensor.shape[-2:] == (8, 8)]


def small_model(**arguments: Any) -> PixelGAN:
    return PixelGAN((1, 8, 8), **{"encoder": ConvEncoder([4], 6), "decoder": GatedPixelCNN(4, layers=1), **arguments})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"decoder": GatedPixelCNN(6, layers=1)}, "decoder.init_args.channels is 4 there and 6 here"),
        ({"prior": Categorical(7)}, "prior.init_args.num_categories is 10 there and 7 here"),
        ({"encoder": ConvEncoder([4, 4], 6)}, r"encoder.init_args.channels is \[4\] there and \[4, 4\] here"),
    ],
)
def test_a_checkpoint_of_another_model_says_what_differs(
    arguments: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    data = DigitsDataModule(binarization="threshold")
    trainer = pl.Trainer(max_steps=1, plugins=[AtomicCheckpointIO()], default_root_dir=tmp_path, **quiet)
    trainer.fit(small_model(), data)
    trainer.save_checkpoint(path := tmp_path / "mine.ckpt")
    again = pl.Trainer(max_steps=2, plugins=[AtomicCheckpointIO()], default_root_dir=tmp_path, **quiet)
    with pytest.raises(ConfigurationError, match=f"the checkpoint is of another model: {expected}"):
        again.fit(small_model(**arguments), data, ckpt_path=path)


# ------------------------------------------------------------------------------------------------------ the file itself


class Code:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("proof",)


class TestAtomicCheckpointIO:
    CONTENT: ClassVar[dict[str, Any]] = {"state_dict": {"w": torch.arange(100_000.0)}, "global_step": 3}

    def test_round_trip(self) -> None:
        AtomicCheckpointIO().save_checkpoint(self.CONTENT, "folder/a.ckpt")
        assert_equal(AtomicCheckpointIO().load_checkpoint("folder/a.ckpt"), self.CONTENT)
        assert os.listdir("folder") == ["a.ckpt"]

    def test_a_full_disk_keeps_the_file_before(self) -> None:
        def run() -> None:
            io = AtomicCheckpointIO()
            io.save_checkpoint(self.CONTENT, "a.ckpt")
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            with pytest.raises(RunError, match=r"a checkpoint of 0.4 MiB: a.ckpt cannot be written: File too large"):
                io.save_checkpoint({**self.CONTENT, "global_step": 4}, "a.ckpt")
            assert os.listdir() == ["a.ckpt"]

        before = set(os.listdir())
        os.mkdir("disk")
        os.chdir("disk")
        assert wait(start(run)) == 0
        os.chdir("..")
        assert AtomicCheckpointIO().load_checkpoint("disk/a.ckpt")["global_step"] == 3
        assert set(os.listdir()) == before | {"disk"}

    def test_a_full_disk_ends_a_run_in_one_line(self) -> None:
        def run() -> None:
            original = PixelGAN.training_step

            def replaced(self: PixelGAN, batch: Any, batch_idx: int) -> None:
                if self.global_step == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
                original(self, batch, batch_idx)

            PixelGAN.training_step = replaced  # type: ignore[method-assign]
            pixelgan("fit", "--config", SMALL, "--run_dir", "run", "--trainer.max_epochs", 2, *every_step)

        every_step = ["--trainer.limit_train_batches", 3, "--checkpoint.every_n_train_steps", 1]
        assert wait(start(run, output=Path("output"))) == 1
        assert load_step(Path("run")) == 3
        last = Path("output").read_text().splitlines()[-1]
        assert last.startswith("error: a checkpoint of ")
        assert last.endswith("cannot be written: File too large; earlier checkpoints are untouched")
        assert "Traceback" not in Path("output").read_text()
        assert not list(Path("run").rglob("*.tmp"))

    def test_code_is_not_run(self) -> None:
        torch.save({"state_dict": {}, "surprise": Code()}, "a.ckpt")
        with pytest.raises(ConfigurationError, match=r"ckpt_path=a\.ckpt is not usable"):
            AtomicCheckpointIO().load_checkpoint("a.ckpt")
        with pytest.raises(ConfigurationError, match="weights_only=False is not usable"):
            AtomicCheckpointIO().load_checkpoint("a.ckpt", weights_only=False)
        assert not Path("proof").exists()

    def test_damaged_files(self) -> None:
        AtomicCheckpointIO().save_checkpoint(self.CONTENT, "a.ckpt")
        whole = Path("a.ckpt").read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"text"):
            Path("a.ckpt").write_bytes(content)
            with pytest.raises(ConfigurationError, match=r"ckpt_path=a\.ckpt is not usable"):
                AtomicCheckpointIO().load_checkpoint("a.ckpt")
        with pytest.raises(ConfigurationError, match=r"ckpt_path=b\.ckpt is not usable"):
            AtomicCheckpointIO().load_checkpoint("b.ckpt")
