"""Unusable input of every kind ends in one line that names it, with a status that is not 0, and leaves nothing."""

from __future__ import annotations

import copy
import gzip
import io
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import CONFIGS, SMALL, pixelgan, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from realformats import write_idx, write_mnist, write_svhn

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.configuration.schema import Schema
from pixelgan_lightning.configuration.settings import read
from pixelgan_lightning.datamodules import (
    DigitsDataModule,
    ImageTensorDataModule,
    MNISTDataModule,
    SVHNDataModule,
    expansion,
)
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases import (
    AgreementPhase,
    ClassificationPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    ReconstructionPhase,
)
from pixelgan_lightning.posteriors import (
    CategoricalPosterior,
    DeterministicPosterior,
    GaussianPosterior,
    ImplicitPosterior,
)
from pixelgan_lightning.priors import Categorical, Gaussian, GaussianMixture, NoCode, ProductPrior

FIT = ["fit", "--config", SMALL]
Arguments = list[object]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fit."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    pixelgan(*FIT, "--run_dir", folder, "--trainer.limit_train_batches", 1)
    return folder


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST in its real format, 60 training and 20 test images."""
    folder = tmp_path_factory.mktemp("mnist")
    write_mnist(folder, train=60, test=20)
    return folder


def test_the_files_are_usable_as_they_are(mnist: Path) -> None:
    """Without this the refusals below would prove little."""
    module = MNISTDataModule(str(mnist), num_val=20, batch_size=8)
    module.setup()
    assert len(module.train_dataloader()) == 5


# -------------------------------------------------------------------------------------------------------- arguments

FLAGS: dict[str, tuple[Arguments, list[str]]] = {
    "negative epochs": (["--trainer.max_epochs", -5], ["max_epochs", "-5"]),
    "no devices": (["--trainer.devices", 0], ["devices", "0"]),
    "unknown precision": (["--trainer.precision", 7], ["precision", "7"]),
    "negative limit": (["--trainer.limit_train_batches", -1], ["limit_train_batches", "-1"]),
    "a limit that is no number": (["--trainer.limit_val_batches", "some"], ["limit_val_batches=some"]),
    "time that is none": (["--trainer.max_time", "soon"], ["duration='soon'"]),
    "a strategy that is none": (["--trainer.strategy", "hope"], ["hope"]),
    "a seed that is no number": (["--seed_everything", "lucky"], ["seed_everything=lucky"]),
    "negative seed": (["--seed_everything", -1], ["-1"]),
    "checkpoints every -1 steps": (["--checkpoint.every_n_train_steps", -1], ["every_n_train_steps", "-1"]),
    "a learning rate beyond 32 bits": (["--model.phases.reconstruction.lr", 1e38], ["lr=1e+38", "<= 1e+30"]),
    "a rate of the encoder beyond 32 bits": (
        ["--model.phases.reconstruction.encoder_lr", 1e38],
        ["encoder_lr=1e+38", "<= 1e+30"],
    ),
    "a weight decay beyond 32 bits": (
        ["--model.phases.generator.weight_decay", 1e300],
        ["weight_decay=1e+300", "<= 1e+30"],
    ),
    "checkpoints by time": (["--checkpoint.train_time_interval", "00:30:00"], ["train_time_interval"]),
    "checkpoints of -2 models": (["--checkpoint.save_top_k", -2], ["save_top_k", "-2"]),
    "mode of checkpoints": (["--checkpoint.monitor", "val/reconstruction", "--checkpoint.mode", "best"], ["best"]),
    "empty class": (["--model.prior", ""], ["model.prior"]),
    "a number as class": (["--model.decoder", 3], ["model.decoder"]),
    "class of another kind": (["--model.prior", "ConvEncoder"], ["model.prior", "ConvEncoder"]),
    "batch size 0": (["--data.batch_size", 0], ["batch_size=0"]),
    "fewer than no workers": (["--data.num_workers", -1], ["num_workers=-1"]),
    "labels for half a class": (["--data.num_labelled", 5], ["num_labelled=5", "multiples of 10"]),
    "negative labels": (["--data.num_labelled", -10], ["num_labelled=-10"]),
    "levels": (["--data.levels", 1], ["levels=1"]),
    "levels that the likelihood lacks": (["--data.levels", 4], ["levels=17", "levels=4"]),
    "unknown binarisation": (["--data.binarization", "often"], ["binarization", "often"]),
    "no categories": (["--model.prior.num_categories", 0], ["num_categories=0"]),
    "codes without dimensions": (["--model.prior", "Gaussian", "--model.prior.dim", 0], ["dim=0"]),
    "no channels": (["--model.decoder.channels", 0], ["channels=0"]),
    "negative layers": (["--model.decoder.layers", -1], ["layers=-1"]),
    "even kernel": (["--model.decoder.first_kernel", 4], ["first_kernel=4"]),
    "betas": (["--model.phases.reconstruction.betas", "[0.9, 1.5]"], ["betas=[0.9, 1.5]"]),
    "clipping at 0": (["--model.phases.generator.clip_norm", 0], ["clip_norm=0"]),
    "NaN as rate": (["--model.phases.classification.lr", "nan"], ["lr=nan"]),
    "warm-up without labels": (["--model.phases.classification.alone", 2], ["alone=2", "num_labelled=None"]),
    "categories named by some of the labels": (
        [
            *("--model.augmentation", "RandomAffine", "--model.phases.agreement", "AgreementPhase"),
            *("--model.phases.agreement.alone", 2),
            *("--data.num_labelled", 20, "--data.labelled_batch_size", 10),
        ],
        ["labelled_batch_size=10", "alone=2", "all 20 labelled images"],
    ),
    "agreement without views": (["--model.phases.agreement", "AgreementPhase"], ["AgreementPhase", "augmentation"]),
    "shape that is the data's": (["--model.image_shape", "[1, 2, 2]"], ["image_shape"]),
    "columns": (["--trainer.callbacks+=SampleGrid", "--trainer.callbacks.columns", 0], ["columns=0"]),
    "modules that are none": (["--allow", "../mine"], ["allow='../mine'", "names of modules"]),
    "no module": (["--allow", ""], ["allow=''"]),
    "two subcommands": (["test"], ["test"]),
    "an option without value": (["--run_dir"], ["run_dir"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments, expected = FLAGS[case]
    line = refused(capsys, *FIT, *arguments)
    for part in expected:
        assert part in line
    assert len(line) < 400
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- configurations

FILES: dict[str, tuple[bytes, list[str]]] = {
    "syntax": (b"model: {prior: [", ["config=bad.yaml", "line 1"]),
    "tab": (b"model:\n\tprior: 3\n", ["config=bad.yaml", "line 2"]),
    "a list": (b"- 1\n- 2\n", ["config=bad.yaml", "list"]),
    "empty": (b"", ["config=bad.yaml", "NoneType"]),
    "not text": (b"\xff\xfe\x00\x01", ["config=bad.yaml"]),
    "code": (b"model: !!python/object/apply:os.mkdir [proof]\n", ["config=bad.yaml", "python/object"]),
    "a date that is none": (b"seed_everything: 2001-99-99\n", ["config=bad.yaml", "month"]),
    "a path as class": (b"model: {prior: {class_path: ../..}}\n", ["model.prior", "../.."]),
    "unknown key": (b"modle: {seed: 3}\n", ["modle"]),
    "wrong type": (b"trainer: 3\n", ["trainer"]),
    "class without path": (
        b"model: {prior: {init_args: {num_categories: 3}}, decoder: {name: x}}\n",
        ["model.decoder"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_configurations(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    content, expected = FILES[case]
    Path("bad.yaml").write_bytes(content)
    line = refused(capsys, *FIT, "--config", "bad.yaml")
    for part in expected:
        assert part in line
    assert len(line) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


# -------------------------------------------------------------------------------------------------------- data files

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6])


def with_magic(*magic: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(bytes(magic) + path.read_bytes()[4:]) and None


def floats(path: Path) -> None:
    path.write_bytes(struct.pack(">HBB3I", 0, 0x0D, 3, 60, 28, 28) + torch.zeros(60, 28, 28).numpy().tobytes())


def claims_terabytes(path: Path) -> None:
    path.write_bytes(struct.pack(">HBB3I", 0, 0x08, 3, 2**31, 28, 28) + bytes(1000))


def compressed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def bomb(path: Path) -> None:
    """100 MiB of zeros in 100 KiB."""
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(bytes(100 * 2**20), compresslevel=1))


def gzip_cut_short(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DATA: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "one byte short": (IMAGES, cut, [IMAGES, "damaged"]),
    "labels one byte short": (LABELS, cut, [LABELS, "damaged"]),
    "header cut": (IMAGES, cut_in_the_header, [IMAGES, "damaged"]),
    "magic": (IMAGES, with_magic(1, 2, 3, 4), [IMAGES, "damaged"]),
    "type": (IMAGES, floats, [IMAGES]),
    "unknown type": (IMAGES, with_magic(0, 0, 0x07, 3), [IMAGES]),
    "more images than bytes": (IMAGES, claims_terabytes, [IMAGES, "damaged"]),
    "still compressed": (IMAGES, compressed, [IMAGES, "damaged"]),
    "gzip cut short": (IMAGES, gzip_cut_short, [f"{IMAGES}.gz", "damaged"]),
    "images as labels": (LABELS, lambda path: write_idx(path, torch.zeros(60, 2, 2)), [LABELS]),
    "other size": (IMAGES, lambda path: write_idx(path, torch.zeros(60, 8, 8)), ["(1, 8, 8)", "(1, 28, 28)"]),
    "fewer labels": (LABELS, lambda path: write_idx(path, torch.zeros(59)), ["60 images and 59 labels"]),
    "label out of range": (LABELS, lambda path: write_idx(path, torch.full((60,), 10)), ["labels from 10 to 10"]),
    "decompression bomb": (LABELS, bomb, [f"{LABELS}.gz", "67108864 bytes when unpacked"]),
    "missing": (LABELS, Path.unlink, [LABELS, "lacks"]),
    "a folder": (LABELS, into_a_folder, [LABELS]),
}


@pytest.mark.parametrize("case", DATA)
def test_data_files(case: str, mnist: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name, damage, expected = DATA[case]
    shutil.copytree(mnist, "data")
    damage(Path("data") / "MNIST" / "raw" / name)
    data = ["--data", "MNISTDataModule", "--data.num_val", 20, "--data.download", "false", "--data.data_dir", "data"]
    line = refused(capsys, *FIT, *data, "--model.likelihood", "Bernoulli")
    for part in expected:
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_class_without_images_for_the_labels_asked_for(mnist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(mnist, "data")
    write_idx(Path("data") / "MNIST" / "raw" / LABELS, torch.arange(60) % 9)
    data = ["--data", "MNISTDataModule", "--data.num_val", 20, "--data.data_dir", "data", "--data.num_labelled", 10]
    line = refused(capsys, *FIT, *data, "--model.likelihood", "Bernoulli")
    assert "num_labelled=10 asks for 1 images of every class, but the training split has 0 of class 9" in line


def zeros_of(number: int) -> dict[str, np.ndarray]:
    return {"images": np.zeros((number, 8, 8), np.uint8), "labels": np.arange(number) % 10}


def npz_bomb(path: Path) -> None:
    np.savez_compressed(path, **zeros_of(2**15))  # 2 MiB of pixels


def npz_that_says_terabytes(path: Path) -> None:
    """The header of the array says so, there are no such data."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 28, 28)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))


def leads_out(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        np.savez(path, **zeros_of(60))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"proof")

    return write


def repeated_for_ever(path: Path) -> None:
    """One value in the file, of which the images are a view."""
    torch.save({"images": torch.zeros(1, dtype=torch.uint8).expand(2**32, 8, 8)}, path)


def pt_bomb(path: Path) -> None:
    torch.save({"images": torch.zeros(60, 8, 8, dtype=torch.uint8)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(2**23) if name.endswith("data/0") else content)


OWN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "NaN": ("x.npz", lambda path: np.savez(path, images=np.full((60, 8, 8), np.nan)), "NaN or infinite ones among"),
    "labels that are no classes": (
        "x.npz",
        lambda path: np.savez(path, images=zeros_of(60)["images"], labels=np.arange(60) / 2),
        "its labels have 0.5: allowed are whole numbers",
    ),
    "decompression bomb": ("x.npz", npz_bomb, "allowed are 200 times as many"),
    "more values than bytes": ("x.npz", npz_that_says_terabytes, "missing or damaged"),
    "a path out of the archive": (
        "x.npz",
        leads_out("../proof.npy"),
        "it has a file '../proof.npy': allowed are names",
    ),
    "an absolute path in the archive": (
        "x.npz",
        leads_out("/proof.npy"),
        "it has a file '/proof.npy': allowed are names",
    ),
    "decompression bomb of tensors": ("x.pt", pt_bomb, "allowed are 200 times as many"),
    "a view of one value": ("x.pt", repeated_for_ever, "hold 274877906944: allowed are 200 times as many"),
}


@pytest.mark.parametrize("case", OWN)
def test_files_of_ones_own(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write, expected = OWN[case]
    write(Path(name))
    monkeypatch.setattr(expansion, "FREE_BYTES", 2**20)
    line = refused(capsys, *FIT, "--data", "ImageTensorDataModule", "--data.train_path", name)
    assert line.startswith(f"train_path='{name}' is not usable: ")
    assert expected in line
    assert [path.name for path in tmp_path.iterdir()] == [name]


# -------------------------------------------------------------------------------------------------------- checkpoints


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("proof"),)


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def on_several_disks(path: Path) -> None:
    """As archives could be in the days of floppy disks; Python's reader raises for them when asked what they are."""
    content = bytearray(path.read_bytes())
    locator = content.rindex(b"PK\x06\x07")
    content[locator + 16 : locator + 20] = struct.pack("<I", 2)
    path.write_bytes(content)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "empty": (lambda path: path.write_bytes(b""), ["ckpt_path=bad.ckpt"]),
    "text": (lambda path: path.write_text("weights"), ["ckpt_path=bad.ckpt"]),
    "cut short": (cut_in_half, ["ckpt_path=bad.ckpt"]),
    "pickle with code": (lambda path: path.write_bytes(pickle.dumps(Code())), ["ckpt_path=bad.ckpt"]),
    "code in a checkpoint": (lambda path: edited(path, lambda c: c.update(x=Code())), ["ckpt_path=bad.ckpt"]),
    "a list": (lambda path: torch.save([1, 2], path), ["ckpt_path=bad.ckpt"]),
    "without description": (lambda path: edited(path, lambda c: c.pop("hyper_parameters")), ["ckpt_path=bad.ckpt"]),
    "without weights": (lambda path: edited(path, lambda c: c.pop("state_dict")), ["ckpt_path=bad.ckpt", "state_dict"]),
    "weights of another model": (
        lambda path: edited(path, lambda c: c["state_dict"].update({"decoder.head.params.bias": torch.zeros(3)})),
        ["another model", "decoder.head.params.bias has shape (3,) there"],
    ),
    "description of another model": (
        lambda path: edited(path, lambda c: c["hyper_parameters"]["decoder"]["init_args"].update(channels=6)),
        ["another model", "decoder.", "has shape"],
    ),
    "unknown argument": (
        lambda path: edited(path, lambda c: c["hyper_parameters"]["prior"]["init_args"].update(colour="red")),
        ["colour"],
    ),
    "steps without end": (lambda path: edited(path, lambda c: c.update(global_step=float("inf"))), ["global_step=inf"]),
    "a configuration that is no text": (
        lambda path: edited(path, lambda c: c.update(pixelgan_lightning_config={"data": 1})),
        ["pixelgan_lightning_config="],
    ),
    "a configuration without names": (
        lambda path: edited(path, lambda c: c.update(pixelgan_lightning_config="data: {1: 2}")),
        ["names of settings"],
    ),
    "on several disks": (on_several_disks, ["ckpt_path=bad.ckpt"]),
    "nowhere": (lambda path: path.unlink(), ["ckpt_path=bad.ckpt", "no file"]),
    "a folder": (into_a_folder, ["ckpt_path=bad.ckpt"]),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(case: str, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damage, expected = CHECKPOINTS[case]
    path = Path(shutil.copy(trained / "checkpoints" / "last.ckpt", "bad.ckpt"))
    damage(path)
    line = refused(capsys, "test", "--config", SMALL, "--ckpt_path", "bad.ckpt", "--trainer.logger", "false")
    for part in expected:
        assert part in line
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.ckpt"}


# ----------------------------------------------------------------------------------------------------- any input at all


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("value", ["x", None, [{"a": 1}], {"class_path": 3}, {1: 2}], ids=repr)
def test_a_setting_of_any_form_is_read_or_refused(value: Any, tmp_path: Path) -> None:
    """Also where a mapping or the name of a class belongs."""
    whole = yaml.safe_load((CONFIGS / "digits_clustering.yaml").read_text())
    schema, file = Schema("fit"), tmp_path / "changed.yaml"
    refusals: list[str] = []
    for *parents, last in places(whole):
        changed = copy.deepcopy(whole)
        reduce(lambda inside, key: inside[key], parents, changed)[last] = value
        file.write_text(yaml.safe_dump(changed))
        try:
            config = schema.parsed(read(["--config", str(file)]).layers)
            assert config.data is not None
        except ConfigurationError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not any("\n" in line for line in refusals)


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@quick
@given(st.binary(max_size=200), st.sampled_from([IMAGES, LABELS]))
def test_any_bytes_are_read_or_refused(mnist: Path, tmp_path: Path, content: bytes, name: str) -> None:
    refusals: list[str] = []
    folder = tmp_path / "any"
    if not folder.exists():
        shutil.copytree(mnist, folder)
    whole = (mnist / "MNIST" / "raw" / name).read_bytes()
    for file in (content, whole[: len(content)] + content, content + whole[len(content) :]):
        (folder / "MNIST" / "raw" / name).write_bytes(file)
        try:
            module = MNISTDataModule(str(folder), num_val=20, batch_size=8, download=False)
            images, labels = module.load_split("train")
            module.setup("fit")
        except ConfigurationError as error:
            refusals.append(str(error))
        else:
            assert images.shape == (60, 1, 28, 28)
            assert labels.shape == (60,)
            assert file[:4] == whole[:4]
    shutil.copy(mnist / "MNIST" / "raw" / name, folder / "MNIST" / "raw" / name)
    assert all("\n" not in line for line in refusals)


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
def test_idx_files_are_read_as_they_were_written(
    tmp_path: Path, height: int, width: int, number: int, data: st.DataObject
) -> None:
    from torchvision.datasets.mnist import read_image_file

    size = number * height * width
    pixels = torch.tensor(list(data.draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    write_idx(tmp_path / "images", pixels.view(number, height, width))
    assert torch.equal(read_image_file(str(tmp_path / "images")), pixels.view(number, height, width))


def damaged(whole: bytes, data: st.DataObject) -> bytes:
    """The file with some of its bytes replaced by others, or by none."""
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(begin, min(len(whole), begin + 40))))
    return whole[:begin] + data.draw(st.binary(max_size=60)) + whole[end:]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file for every other reader (that of NORB: see test_norb.py)."""
    folder = tmp_path_factory.mktemp("others")
    arrays = {"images": torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4), "labels": torch.tensor([0, 1, 0, 1])}
    np.savez_compressed(folder / "x.npz", **{name: value.numpy() for name, value in arrays.items()})
    torch.save(arrays, folder / "x.pt")
    for digit in "01":
        (folder / "pictures" / digit).mkdir(parents=True)
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(folder / "pictures" / digit / "a.png")
    write_svhn(folder, train=60, test=20)
    return folder


OTHERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "npz": ("x.npz", lambda folder: ImageTensorDataModule(str(folder / "x.npz"), levels=256)),
    "pt": ("x.pt", lambda folder: ImageTensorDataModule(str(folder / "x.pt"), levels=256)),
    "png": ("pictures/0/a.png", lambda folder: ImageTensorDataModule(str(folder / "pictures"), levels=256)),
    "svhn": ("SVHN/train_32x32.mat", lambda folder: SVHNDataModule(str(folder), num_val=10, download=False)),
}


@quick
@given(data=st.data())
@pytest.mark.parametrize("reader", OTHERS)
def test_damaged_files_are_read_or_refused(reader: str, others: Path, tmp_path: Path, data: st.DataObject) -> None:
    name, module = OTHERS[reader]
    folder = tmp_path / "any"
    if not folder.exists():
        shutil.copytree(others, folder)
    (folder / name).write_bytes(damaged((others / name).read_bytes(), data))
    refusals: list[str] = []
    try:
        images, labels = module(folder).load_split("train")
    except ConfigurationError as error:
        refusals.append(str(error))
    else:
        assert images.dtype == torch.uint8
        assert len(images) == len(labels)
    assert all("\n" not in line for line in refusals)


PRIORS = {
    "categorical": lambda: Categorical(10),
    "few categories": lambda: Categorical(4),
    "gaussian": lambda: Gaussian(2),
    "mixture": lambda: GaussianMixture(10),
    "product": lambda: ProductPrior([Categorical(10), Gaussian(2)]),
    "plane": lambda: ProductPrior([Gaussian(1), Gaussian(1)]),
    "none": NoCode,
}
POSTERIORS = {
    "suggested": lambda: None,
    "deterministic": DeterministicPosterior,
    "gaussian": GaussianPosterior,
    "implicit": ImplicitPosterior,
    "one-hot": lambda: CategoricalPosterior(straight_through="sample"),
}


@settings(quick, max_examples=80)
@given(
    st.sampled_from(sorted(PRIORS)),
    st.sampled_from(["suggested"] * 5 + sorted(POSTERIORS)),
    st.sampled_from([None, None, "views", "views that agree", "views that agree", "agree"]),
    st.sampled_from([None, 10, 20]),
    st.fixed_dictionaries(
        {
            "step": st.sampled_from(["sequential", "fused"]),
            "label_aware": st.sampled_from([False, False, True]),
            "images": st.sampled_from([None, 3, 100]),
            "labels_first": st.sampled_from([0, 0, 0, 2]),
            "agreement_first": st.sampled_from([0, 0, 0, 2]),
            "classification": st.booleans(),
        }
    ),
)
def test_any_combination_trains_or_is_refused(
    prior: str, posterior: str, views: str | None, labels: int | None, arguments: dict[str, Any]
) -> None:
    refusals: list[str] = []
    try:
        phases = {
            "reconstruction": ReconstructionPhase(images=arguments["images"]),
            "discriminator": DiscriminatorPhase(),
            "generator": GeneratorPhase(),
        }
        if views and "agree" in views:
            phases["agreement"] = AgreementPhase(alone=arguments["agreement_first"])
        if arguments["classification"]:
            phases["classification"] = ClassificationPhase(alone=arguments["labels_first"])
        model = PixelGAN(
            (1, 8, 8),
            10,
            prior=PRIORS[prior](),
            posterior=POSTERIORS[posterior](),
            encoder=ConvEncoder([2], 4),
            decoder=GatedPixelCNN(4, layers=1, first_kernel=3),
            discriminator=MLPDiscriminator([4], label_aware=arguments["label_aware"]),
            augmentation=RandomAffine() if views and "views" in views else None,
            phases=phases,
            step=arguments["step"],
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_steps=3, limit_val_batches=1, enable_model_summary=False, **quiet)  # type: ignore[arg-type]
        data = DigitsDataModule(
            batch_size=8, eval_batch_size=8, num_labelled=labels, labelled_batch_size=4, binarization="threshold"
        )
        trainer.fit(model, data)
    except ConfigurationError as error:
        refusals.append(str(error))
    else:
        assert trainer.global_step == 3
        assert all(p.isfinite().all() for p in model.parameters())
    assert all("\n" not in line for line in refusals)


numbers = st.one_of(st.integers(-3, 30), st.none())


@quick
@given(numbers, numbers, st.sampled_from([None, -10, 0, 5, 10, 20, 2000]), numbers, st.integers(-1, 20))
def test_any_numbers_for_the_data_work_or_are_refused(
    batch_size: int | None, eval_size: int | None, labelled: int | None, labelled_size: int | None, levels: int
) -> None:
    sizes = {"batch_size": batch_size, "eval_batch_size": eval_size, "labelled_batch_size": labelled_size}
    given = {name: size for name, size in sizes.items() if size is not None}
    refusals: list[str] = []
    try:
        module = DigitsDataModule(num_labelled=labelled, levels=levels, **given)
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
    except ConfigurationError as error:
        refusals.append(str(error))
    else:
        assert len(batch["unlabelled"]["image"]) == module.batch_size
        assert ("labelled" in batch) == (labelled is not None)
        assert batch["unlabelled"]["image"].amax() <= 1
        assert set((batch["unlabelled"]["image"] * (levels - 1)).unique().tolist()) <= set(range(levels))
    assert all("\n" not in line for line in refusals)


@quick
@given(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 6)),
    st.integers(-1, 4),
    st.integers(-1, 3),
    st.sampled_from([Categorical, Gaussian]),
    st.one_of(st.floats(-1, 1), st.just(float("nan"))),
)
def test_any_numbers_for_the_model_work_or_are_refused(
    shape: tuple[int, int, int], size: int, alone: int, prior: Any, rate: float
) -> None:
    refusals: list[str] = []
    try:
        model = PixelGAN(
            shape,
            10,
            prior=prior(size),
            decoder={
                "class_path": "pixelgan_lightning.decoders.GatedPixelCNN",
                "init_args": {"channels": 4, "layers": 1, "first_kernel": 3},
            },
            phases={"reconstruction": ReconstructionPhase(lr=rate, alone=alone)},
        )
    except ConfigurationError as error:
        refusals.append(str(error))
    else:
        assert min(shape) >= 1
        assert size >= 1
        assert alone >= 0
        assert rate > 0
        assert model.sample(2).shape == (2, *shape)
    assert all("\n" not in line for line in refusals)
