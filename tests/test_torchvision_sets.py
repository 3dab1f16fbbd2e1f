"""Data sets of torchvision, from tiny files in their real formats."""

from __future__ import annotations

import bz2
import hashlib
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from realformats import digit_images, write_idx, write_mnist

from pixelgan_lightning.datamodules import MNISTDataModule, TorchvisionDataModule
from pixelgan_lightning.datamodules.torchvision_sets import KNOWN
from pixelgan_lightning.errors import ConfigurationError

COLOURS = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(60) % 10


def local(name: str, root: Path, **arguments: Any) -> TorchvisionDataModule:
    return TorchvisionDataModule(name, str(root), download=False, batch_size=10, **arguments)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_fits_torchvision(name: str) -> None:
    signature = inspect.signature(getattr(torchvision.datasets, name))
    known = KNOWN[name]
    assert "train" in known.sets
    options = [{known.option[0]: value} for value in known.classes] if isinstance(known.classes, dict) else [{}]
    for arguments in known.sets.values():
        for more in options:
            signature.bind("root", download=True, **arguments, **more)
    if name == "EMNIST":
        splits = torchvision.datasets.EMNIST.classes_split_dict
        assert known.classes == {split: len(set(names) - {"N/A"}) for split, names in splits.items()}


@pytest.mark.parametrize("side", [28, 14])
def test_mnist_is_the_same_as_by_its_own_module(tmp_path: Path, side: int) -> None:
    write_mnist(tmp_path)
    module = local("MNIST", tmp_path, side=side)
    module.prepare_data()
    module.setup()
    own = MNISTDataModule(str(tmp_path), side=side, num_val=100, download=False)
    for source in ("train", "test"):
        for left, right in zip(module.load_split(source), own.load_split(source), strict=True):
            assert torch.equal(left, right)
    assert module.class_names == own.class_names
    assert len(module.split_indices("val")) == 30


def test_options_apply_to_any_of_them(tmp_path: Path) -> None:
    write_mnist(tmp_path, name="KMNIST")
    module = local("KMNIST", tmp_path, channels=3, levels=4, num_labelled=20, labelled_batch_size=10, side=7)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["unlabelled"]["image"].shape == (10, 3, 7, 7)
    assert set((3 * batch["unlabelled"]["image"]).unique().tolist()) <= {0, 1, 2, 3}
    assert batch["labelled"]["label"].min() >= 0
    assert module.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def test_letters_are_upright_and_named(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images, _ = digit_images(52, size=28)
    labels = torch.arange(52) % 26
    for part in ("train", "test"):
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", images.transpose(1, 2))
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", labels + 1)
    module = local("EMNIST", tmp_path, options={"split": "letters"})
    read, numbers = module.load_split("train")
    assert torch.equal(read[:, 0], images)
    assert torch.equal(numbers, labels)
    assert (module.num_classes, module.class_names) == (26, tuple("abcdefghijklmnopqrstuvwxyz"))
    with pytest.raises(ConfigurationError, match=r"allowed for split are byclass, .* mnist"):
        local("EMNIST", tmp_path, options={"split": "words"})


def test_usps(tmp_path: Path) -> None:
    images, labels = digit_images(60, size=16)
    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [
            f"{label + 1} " + " ".join(f"{i + 1}:{v / 127.5 - 1:.6f}" for i, v in enumerate(image.flatten().tolist()))
            for image, label in zip(images, labels.tolist(), strict=True)
        ]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    read, numbers = local("USPS", tmp_path).load_split("test")
    assert (read[:, 0].int() - images.int()).abs().max() <= 1  # torchvision rounds down
    assert torch.equal(numbers, labels)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    stored = {"data": COLOURS.reshape(60, -1), "labels": LABELS.tolist()}
    names = [f"thing {label}" for label in range(10)]
    for name, content in (("data_batch_1", stored), ("test_batch", stored), ("batches.meta", {"label_names": names})):
        (folder / name).write_bytes(pickle.dumps(content))
    cifar = torchvision.datasets.CIFAR10
    with pytest.raises(ConfigurationError, match=r"has no CIFAR10 \(download=False: Dataset not found or corrupted"):
        local("CIFAR10", tmp_path).setup("fit")  # these are no published files, and would be unpickled
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", md5(folder / "data_batch_1")]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "batches.meta")})
    module = local("CIFAR10", tmp_path)
    images, labels = module.load_split("train")
    assert (images.numpy() == COLOURS).all()
    assert labels.tolist() == LABELS.tolist()
    assert module.class_names == tuple(names)
    grey = local("CIFAR10", tmp_path, channels=1, side=16)
    luma = np.einsum("nchw,c->nhw", COLOURS, [0.299, 0.587, 0.114]).reshape(60, 16, 2, 16, 2).mean((2, 4))
    assert np.abs(grey.load_split("test")[0][:, 0].numpy() - luma).max() <= 1.01


def test_stl10_may_bring_its_unlabelled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 96, 96), dtype=np.uint8)
    for name, rows in (("train", slice(0, 20)), ("unlabeled", slice(20, 30)), ("test", slice(0, 10))):
        (folder / f"{name}_X.bin").write_bytes(images[rows].transpose(0, 1, 3, 2).tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes((LABELS[rows] + 1).astype(np.uint8).tobytes())
    stl = torchvision.datasets.STL10
    for part in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(stl, part)]
        monkeypatch.setattr(stl, part, files)
    plain = local("STL10", tmp_path)
    assert torch.equal(plain.load_split("train")[0], torch.from_numpy(images[:20]))
    module = local("STL10", tmp_path, options={"split": "train+unlabeled"}, side=12)
    read, labels = module.load_split("train")
    mean = images.reshape(30, 3, 12, 8, 12, 8).mean((3, 5))
    assert np.abs(read.numpy() - mean).max() <= 0.51
    assert labels.tolist() == [*LABELS[:20], *[-1] * 10]
    assert len(module.load_split("test")[0]) == 10


def test_pictures_of_many_sizes_with_validation_images_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for number, part in enumerate(("train", "val", "test")):
        names = []
        for row in range(94):
            name = f"texture{row % 47:02}/{part}{row}.png"
            (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + row, 40), (10 * number, row, 0)).save(root / "images" / name)
            names.append(name)
        (root / "labels" / f"{part}1.txt").write_text("\n".join(names))
    with pytest.raises(ConfigurationError, match="side=None is not usable with DTD, of many sizes"):
        local("DTD", tmp_path)
    module = local("DTD", tmp_path, side=8)
    module.setup()
    images, labels = module.load_split("train")
    for number, split in enumerate(("train", "val")):
        rows = module.split_indices(split)  # type: ignore[arg-type]
        assert images[rows, 0].unique().tolist() == [10 * number]
        assert torch.equal(labels[rows].sort().values, (torch.arange(94) // 2))
    assert module.load_split("test")[0][:, 0].unique().tolist() == [20]
    assert module.class_names is not None
    assert module.class_names[3] == "texture03"


def test_without_test_images_there_is_no_test(tmp_path: Path) -> None:
    for label in range(10):
        for row in range(3):
            path = tmp_path / "eurosat" / "2750" / f"land{label}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (label, row, 0)).save(path)
    module = local("EuroSAT", tmp_path)
    module.setup()
    assert len(module.predict_dataloader()) == 2
    assert module.load_split("train")[0][:, 0, 0, 0].tolist() == [label for label in range(10) for _ in range(3)]
    with pytest.raises(ConfigurationError, match=r"name='EuroSAT' .* it has no test images"):
        module.setup("test")


def test_what_is_not_usable_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        ({"name": "Cifar"}, r"name='Cifar' is unknown: allowed are MNIST, .*CIFAR10"),
        ({"name": "MNIST", "side": 0}, "side=0 is not usable"),
        ({"name": "MNIST", "fit": "zoom"}, "fit=zoom is not usable"),
        ({"name": "MNIST", "val_fraction": 1.0}, "val_fraction=1.0 is not usable"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            TorchvisionDataModule(data_dir=str(tmp_path), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"options={'fold': 3} is not usable with STL10: .* 'fold'"):
        local("STL10", tmp_path, options={"fold": 3}).prepare_data()
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(b"no such file")
    with pytest.raises(ConfigurationError, match=r"has no MNIST \(download=False: "):
        local("MNIST", tmp_path).setup("fit")


def test_it_is_downloaded_once_and_only_where_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision downloads, here from a mirror that writes the files."""
    fetched = []

    def mirror(self: torchvision.datasets.MNIST) -> None:
        if not self._check_exists():
            fetched.append(self.root)
            write_mnist(tmp_path, name="QMNIST" if "QMNIST" in type(self).__name__ else "MNIST")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", mirror)
    with pytest.raises(ConfigurationError, match=r"has no MNIST \(download=False: .*Dataset not found"):
        local("MNIST", tmp_path).prepare_data()
    module = TorchvisionDataModule("MNIST", str(tmp_path), batch_size=10)
    module.prepare_data()
    module.setup("fit")
    assert len(fetched) == 1
