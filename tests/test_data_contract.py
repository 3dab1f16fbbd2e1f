"""What every data module promises. A new one joins by being listed here."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from external_parts import Mirror
from realformats import digit_images, write_mnist, write_norb, write_svhn

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.datamodules import (
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageDataModule,
    ImageTensorDataModule,
    MNISTDataModule,
    NORBDataModule,
    SVHNDataModule,
    TorchvisionDataModule,
)
from pixelgan_lightning.errors import ConfigurationError

Maker = Callable[..., ImageDataModule]


def _own_images(root: Path) -> Maker:
    for name, number, offset in (("train", 300, 0), ("test", 60, 100)):
        images, labels = digit_images(number, size=12, offset=offset)
        labels[::7] = -1
        torch.save({"images": images, "labels": labels}, root / f"{name}.pt")
    paths = {"train_path": str(root / "train.pt"), "test_path": str(root / "test.pt")}
    return lambda **arguments: ImageTensorDataModule(**paths, val_fraction=1 / 3, **arguments)


def _mnist(root: Path) -> Maker:
    write_mnist(root)
    return lambda **arguments: MNISTDataModule(str(root), num_val=100, download=False, **arguments)


def _fashion(root: Path) -> Maker:
    write_mnist(root, name="FashionMNIST")
    return lambda **arguments: FashionMNISTDataModule(str(root), num_val=100, download=False, **arguments)


def _svhn(root: Path) -> Maker:
    write_svhn(root)
    return lambda **arguments: SVHNDataModule(str(root), num_val=100, download=False, **arguments)


def _norb(root: Path) -> Maker:
    write_norb(root)
    return lambda **arguments: NORBDataModule(str(root), side=16, download=False, **arguments)


def _torchvision(root: Path) -> Maker:
    write_mnist(root, name="KMNIST")
    paths: dict[str, Any] = {"name": "KMNIST", "data_dir": str(root), "download": False}
    return lambda **arguments: TorchvisionDataModule(**paths, val_fraction=1 / 3, **arguments)


MAKERS: dict[type[ImageDataModule], Callable[[Path], Maker]] = {
    DigitsDataModule: lambda root: DigitsDataModule,
    MNISTDataModule: _mnist,
    FashionMNISTDataModule: _fashion,
    SVHNDataModule: _svhn,
    NORBDataModule: _norb,
    ImageTensorDataModule: _own_images,
    TorchvisionDataModule: _torchvision,
}


@pytest.fixture(scope="module", params=MAKERS, ids=lambda cls: cls.__name__)
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    maker = MAKERS[request.param](tmp_path_factory.mktemp("files"))
    assert type(maker()) is request.param
    return maker


def ready(make: Maker, **arguments: Any) -> ImageDataModule:
    module = make(**{"batch_size": 20, "labelled_batch_size": 10, **arguments})
    module.prepare_data()
    module.setup()
    return module


def labelled(make: Maker, **arguments: Any) -> ImageDataModule:
    classes = make().num_classes
    assert classes is not None
    return ready(make, num_labelled=2 * classes, **arguments)


def test_batches_are_the_rows_of_the_file_that_they_name(make: Maker) -> None:
    module = ready(make, binarization="none")
    assert module.levels == module.native_levels
    for split, loader in zip(module.predict_split_names, module.predict_dataloader(), strict=True):
        stored, labels = module.load_split("test" if split == "test" else "train")
        batches = list(loader)
        index = torch.cat([batch["index"] for batch in batches])
        assert torch.equal(index, module.split_indices(split))
        image = torch.cat([batch["image"] for batch in batches])
        assert image.shape[1:] == module.image_shape
        assert torch.equal(image, stored[index].float() / (module.native_levels - 1))
        assert torch.equal(torch.cat([batch["label"] for batch in batches]), labels[index])


def test_training_and_validation_cut_the_file(make: Maker) -> None:
    module = ready(make)
    train, val = module.split_indices("train"), module.split_indices("val")
    assert len(val) > 0
    assert len(torch.cat([train, val]).unique()) == len(train) + len(val)
    if not isinstance(module, DigitsDataModule):  # whose only file has the test images too
        assert len(train) + len(val) == len(module.load_split("train")[1])
        assert torch.equal(module.split_indices("test"), torch.arange(len(module.load_split("test")[1])))
    again = ready(make, seed=1, label_seed=1)
    assert module.split_hash == again.split_hash


def test_every_class_has_a_name(make: Maker) -> None:
    """And rows may have names: files of the user's, None for the rows of a published file."""
    module = ready(make)
    assert module.class_names is not None
    assert len(set(module.class_names)) == module.num_classes
    for source in ("train", "test"):
        names = [module.image_name(source, row) for row in range(3)]
        assert names == [None] * 3 or len(set(names)) == 3


def test_labelled_images_are_balanced_known_and_for_training(make: Maker) -> None:
    module = labelled(make)
    rows = module.labelled_indices
    assert rows is not None
    assert module.num_classes is not None
    assert module.load_split("train")[1][rows].bincount().tolist() == [2] * module.num_classes
    assert set(rows.tolist()) <= set(module.split_indices("train").tolist())
    batch = next(iter(module.train_dataloader()))
    assert batch["labelled"]["label"].min() >= 0
    other = labelled(make, label_seed=1)
    assert not torch.equal(rows, other.labelled_indices)  # type: ignore[arg-type]
    assert torch.equal(module.split_indices("val"), other.split_indices("val"))


def test_levels_and_binarisation_apply(make: Maker) -> None:
    for arguments, levels in (({"binarization": "none", "levels": 4}, 4), ({"binarization": "dynamic"}, 2)):
        module = ready(make, **arguments)
        batch = next(iter(module.train_dataloader()))["unlabelled"]
        assert module.levels == levels
        assert set((batch["image"] * (levels - 1)).round().unique().tolist()) <= set(range(levels))
        assert torch.equal(batch["image"], (batch["image"] * (levels - 1)).round() / (levels - 1))


def test_augmentation_is_for_training_alone_and_off_by_default(make: Maker) -> None:
    """A mirrored or unchanged image, in both streams; evaluation sees what is stored."""
    plain, augmented = (
        labelled(make, binarization="none", augmentation=augmentation) for augmentation in (None, Mirror())
    )
    assert make().augmentation is None
    loaders = plain.train_dataloader(), augmented.train_dataloader()
    for stream in ("unlabelled", "labelled"):
        mirrored = []
        for before, after in zip(*loaders, strict=True):
            assert torch.equal(before[stream]["index"], after[stream]["index"])
            x, view = before[stream]["image"], after[stream]["image"]
            same, turned = ((view == other).flatten(1).all(1) for other in (x, x.flip(3)))
            assert (same | turned).all()
            mirrored.append(turned & ~same)
        share = torch.cat(mirrored).float().mean()
        assert 0.2 < share < 0.8
    before, after = (next(iter(module.val_dataloader())) for module in (plain, augmented))
    assert torch.equal(before["image"], after["image"])


def test_augmented_images_have_the_levels_of_the_others(make: Maker) -> None:
    for arguments in ({"binarization": "none", "levels": 4}, {"binarization": "dynamic"}):
        module = ready(make, augmentation=RandomAffine(), **arguments)
        image = next(iter(module.train_dataloader()))["unlabelled"]["image"]
        assert torch.equal(image, (image * (module.levels - 1)).round() / (module.levels - 1))
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.std() > 0


def test_too_many_labels_are_refused(make: Maker) -> None:
    classes = make().num_classes
    assert classes is not None
    for number, message in ((classes + 1, f"multiples of {classes}"), (1000 * classes, "allowed are at most")):
        with pytest.raises(ConfigurationError, match=f"num_labelled={number} .*{message}"):
            ready(make, num_labelled=number)


# --- Fashion-MNIST, and what MNIST shares with it ---------------------------------------------------------------------


def test_fashion_mnist_is_looked_for_in_its_own_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(ConfigurationError, match=r"lacks train-images-idx3-ubyte, .*IDX files in FashionMNIST/raw"):
        FashionMNISTDataModule(str(tmp_path), download=False).prepare_data()


def test_packed_idx_files_are_read(tmp_path: Path) -> None:
    write_mnist(tmp_path, name="FashionMNIST")
    module = FashionMNISTDataModule(str(tmp_path), download=False)
    plain = module.load_split("train")
    paths = list((tmp_path / "FashionMNIST" / "raw").iterdir())
    for path in paths:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    module.prepare_data()
    for left, right in zip(module.load_split("train"), plain, strict=True):
        assert torch.equal(left, right)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        path = tmp_path / "FashionMNIST" / "raw" / name
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:50] + b"?" * 20 + whole[70:], b"no gzip"):
            path.write_bytes(damaged)
            with pytest.raises(ConfigurationError, match=f"{name} is damaged"):
                module.load_split("train")
        path.write_bytes(whole)
