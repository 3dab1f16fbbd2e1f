"""Data sets for the library of Hugging Face, from files that the tests write; nothing is fetched."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from realformats import digit_images

from pixelgan_lightning.datamodules import HuggingFaceDataModule
from pixelgan_lightning.errors import ConfigurationError

IMAGES, LABELS = (tensor.numpy() for tensor in digit_images(60, size=8))
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, without a network and with its cache in the test's folder."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


def write_parquet(datasets: Any, folder: Path, features: dict[str, Any], **columns: dict[str, list[Any]]) -> str:
    """A Parquet file for each split."""
    folder.mkdir()
    for split, content in columns.items():
        table = datasets.Dataset.from_dict(content, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def png(image: np.ndarray, **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", **options)
    return {"bytes": file.getvalue(), "path": None}


def module_of(path: str, **arguments: Any) -> HuggingFaceDataModule:
    return HuggingFaceDataModule(path, batch_size=10, **arguments)


def test_pictures_and_classes_of_a_parquet_file(datasets: Any, tmp_path: Path) -> None:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    rows = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
    columns = {
        split: {"image": [png(image) for image in IMAGES[part]], "label": LABELS[part].tolist()}
        for split, part in rows.items()
    }
    columns["test"]["label"][3] = -1
    module = module_of(write_parquet(datasets, tmp_path / "x", features, **columns))
    module.setup()
    assert module.class_names == tuple(NAMES)  # in their own order
    assert module.image_shape == (1, 8, 8)
    images, labels = module.load_split("train")
    assert (images[:, 0].numpy() == IMAGES[:50]).all()
    assert labels.tolist() == LABELS[:50].tolist()
    assert module.split_indices("val").tolist() == list(range(40, 50))
    test_images, test_labels = module.load_split("test")
    assert (test_images[:, 0].numpy() == IMAGES[50:]).all()
    assert test_labels.tolist() == [*LABELS[50:53], -1, *LABELS[54:]]
    assert module.image_name("train", 0) is None


def test_a_folder_of_pictures(datasets: Any, tmp_path: Path) -> None:
    """Each is read as any other picture is: 16 bits, transparency and sizes included."""
    for row in range(40):
        path = tmp_path / "x" / "train" / NAMES[LABELS[row]] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = IMAGES[row].astype(np.uint16) * 257 if row % 2 else np.stack([IMAGES[row], 255 - IMAGES[row]], axis=2)
        Image.fromarray(image).save(path)
    module = module_of(str(tmp_path / "x"))
    images, labels = module.load_split("train")
    assert module.class_names == tuple(sorted(NAMES))
    for place in range(40):
        name = module.image_name("train", place)
        assert name is not None
        row = int(Path(name).stem)
        assert name == f"train/{NAMES[LABELS[row]]}/{row:02}.png"
        assert module.class_names[labels[place]] == NAMES[LABELS[row]]
        opacity = 1 - IMAGES[row] / 255
        expected = IMAGES[row] if row % 2 else IMAGES[row] * opacity + 255 * (1 - opacity)
        assert np.abs(images[place, 0].numpy() - expected).max() <= 0.51
    assert module.predict_split_names == ("train", "val")
    with pytest.raises(ConfigurationError, match=r"path=.*: it has no test images"):
        module.setup("test")


def test_other_columns_and_kinds_of_labels(datasets: Any, tmp_path: Path) -> None:
    features = {
        "img": datasets.Array2D(shape=(8, 8), dtype="float32"),
        "word": datasets.Value("string"),
        "number": datasets.Value("int64"),
    }
    content = {
        "img": list(IMAGES.astype(np.float32) / 255),
        "word": [None if label == 3 else NAMES[label] for label in LABELS],
        "number": [None if label == 3 else int(label) * 10 for label in LABELS],
    }
    path = write_parquet(datasets, tmp_path / "x", features, train=content)
    words = module_of(path, image_column="img", label_column="word")
    assert (words.load_split("train")[0][:, 0].numpy() == IMAGES).all()
    assert words.class_names == tuple(sorted(name for name in NAMES if name != "three"))
    numbers = module_of(path, image_column="img", label_column="number", num_labelled=18, side=4)
    assert numbers.class_names == ("0", "10", "20", "40", "50", "60", "70", "80", "90")
    assert (numbers.load_split("train")[1] < 0).tolist() == (LABELS == 3).tolist()
    assert numbers.image_shape == (1, 4, 4)
    assert module_of(path, image_column="img", label_column=None).num_classes is None
    for arguments, message in (
        ({}, "image_column='image' is unknown: allowed are img, word, number"),
        ({"image_column": "img"}, "label_column='label' is unknown: allowed are img"),
        ({"image_column": "word", "label_column": None}, "its images are .*: allowed are"),
        ({"options": {"split": "train"}}, "allowed are data sets with all their splits"),
        ({"options": {"nothing": 1}}, "options={'nothing': 1} is not usable"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            module_of(path, **arguments)


def test_what_is_not_there_is_named(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("nowhere/at-all", str(tmp_path)):
        with pytest.raises(ConfigurationError, match=f"path='{path}', options={{}} is not usable: ") as caught:
            module_of(path)
        assert "\n" not in str(caught.value)
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    path = write_parquet(datasets, tmp_path / "x", features, train={"image": [png(IMAGES[0]), None], "label": [0, 1]})
    with pytest.raises(ConfigurationError, match="row 1 has no image"):
        module_of(path)


def test_without_the_library_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match=r"needs the library datasets, .*: allowed is pip install datasets"):
        HuggingFaceDataModule("mnist")
