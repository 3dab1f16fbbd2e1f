"""Images in the files that people have them in: each test writes one, and compares pixels and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from realformats import digit_images

from pixelgan_lightning.datamodules import ImageTensorDataModule, expansion
from pixelgan_lightning.errors import ConfigurationError

IMAGES, LABELS = (tensor.numpy() for tensor in digit_images(60, size=8))
COLOURS = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=3)  # [N, H, W, C]
THINGS = np.array(["zebra", "Ant", "bee"])[LABELS % 3]


def module_of(path: Path, **arguments: Any) -> ImageTensorDataModule:
    return ImageTensorDataModule(str(path), batch_size=10, **arguments)


def read(module: ImageTensorDataModule, split: Any) -> tuple[np.ndarray, list[str | None]]:
    """Images ``[N, C, H, W]`` and names of the classes (None: unknown) of a split."""
    images, labels = module.load_split("test" if split == "test" else "train")
    rows = module.split_indices(split)
    names = module.class_names or ()
    return images[rows].numpy(), [None if label < 0 else names[label] for label in labels[rows].tolist()]


def archive(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


# --- archives ---------------------------------------------------------------------------------------------------------


def test_channels_may_come_last(tmp_path: Path) -> None:
    for images in (COLOURS, IMAGES[..., None]):
        module = module_of(archive(tmp_path, images=images))
        assert (module.load_split("train")[0].numpy() == np.moveaxis(images, 3, 1)).all()
    narrow = np.zeros((5, 3, 8, 4), dtype=np.uint8)  # four pixels wide, not four channels
    assert module_of(archive(tmp_path, images=narrow)).image_shape == (3, 8, 4)


@pytest.mark.parametrize(
    "names",
    [
        {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
        {
            "train": ("train_images", "train_labels"),
            "val": ("val_images", "val_labels"),
            "test": ("test_images", "test_labels"),
        },
        {"train": ("X_train", "y_train"), "val": ("X_valid", "y_valid")},
        {"train": ("images", "labels"), "test": ("images_test", "labels_test")},
        {"train": ("arr_0", "arr_1")},
        {"train": ("data", "target")},
    ],
)
def test_sets_of_keras_and_medmnist_are_kept(tmp_path: Path, names: dict[str, tuple[str, str]]) -> None:
    rows = {"train": slice(0, 40), "val": slice(40, 50), "test": slice(50, 60)}
    arrays = {}
    for split, (images, labels) in names.items():
        arrays |= {images: IMAGES[rows[split]], labels: LABELS[rows[split], None].astype(np.uint8)}
    module = module_of(archive(tmp_path, **arrays))
    module.setup()
    assert module.class_names == tuple("0123456789")
    for split in names:
        if split != "train" or "val" in names:  # else validation images are drawn from those for training
            images, labels = read(module, split)
            assert (images[:, 0] == IMAGES[rows[split]]).all()
            assert labels == [str(label) for label in LABELS[rows[split]]]
    assert module.predict_split_names == (("train", "val", "test") if "test" in names else ("train", "val"))
    assert len(module.split_indices("val")) == (10 if "val" in names else 4)


def test_a_test_set_from_elsewhere_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    other = archive(tmp_path / "a", x_train=IMAGES, x_test=IMAGES[:7])
    own = archive(tmp_path, x_train=IMAGES, x_test=IMAGES[:9])
    assert len(module_of(own).load_split("test")[0]) == 9
    with caplog.at_level("INFO"):
        module = module_of(own, test_path=str(other))
    assert len(module.load_split("test")[0]) == 7
    assert f"test images of {own} are not used" in caplog.text


TEXT = LABELS.astype(str)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (THINGS, THINGS),
        (np.char.encode(THINGS, "utf-8"), THINGS),
        (LABELS.astype(np.float32), TEXT),
        (LABELS + 1, (LABELS + 1).astype(str)),
        (LABELS.astype(np.uint8) * 10, (LABELS * 10).astype(str)),
        (LABELS > 4, np.where(LABELS > 4, "True", "False")),
        (np.eye(10)[LABELS], TEXT),
        (np.eye(10, dtype=bool)[LABELS], TEXT),
        (np.eye(12, dtype=np.int64)[LABELS + 1], (LABELS + 1).astype(str)),
        (np.where(LABELS == 3, np.nan, LABELS), np.where(LABELS == 3, None, TEXT)),
        (np.where(LABELS == 3, -1, LABELS), np.where(LABELS == 3, None, TEXT)),
        (np.where(LABELS == 3, "", THINGS), np.where(LABELS == 3, None, THINGS)),
        (np.eye(10)[LABELS] * (LABELS != 3)[:, None], np.where(LABELS == 3, None, TEXT)),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_labels_in_every_form_keep_their_names(
    tmp_path: Path, labels: np.ndarray, expected: np.ndarray, suffix: str
) -> None:
    path = archive(tmp_path, images=IMAGES, labels=labels)
    if suffix == ".pt":
        path = tmp_path / "x.pt"
        as_stored = labels.astype(str).tolist() if labels.dtype.kind in "US" else torch.from_numpy(labels)
        torch.save({"images": torch.from_numpy(IMAGES), "labels": as_stored}, path)
    module = module_of(path)
    numbers = module.load_split("train")[1].tolist()
    assert module.class_names is not None
    assert [None if n < 0 else module.class_names[n] for n in numbers] == expected.tolist()
    assert {n for n in numbers if n >= 0} == set(range(module.num_classes or 0))


def test_classes_are_in_the_order_of_their_numbers_or_of_the_alphabet(tmp_path: Path) -> None:
    assert module_of(archive(tmp_path, images=IMAGES, labels=LABELS * 5)).class_names[1:3] == ("5", "10")  # type: ignore[index]
    assert module_of(archive(tmp_path, images=IMAGES, labels=THINGS)).class_names == ("Ant", "bee", "zebra")


@pytest.mark.parametrize(
    ("images", "value_range", "expected"),
    [
        (IMAGES > 99, None, (IMAGES > 99) * 255),
        (IMAGES.astype(np.uint16) * 257, None, IMAGES),
        (IMAGES.astype(">u2") * 257, None, IMAGES),
        (IMAGES.astype(np.int64), None, IMAGES),
        ((IMAGES / 255).astype(np.float32), None, IMAGES),
        (IMAGES.astype(np.float64), (0, 255), IMAGES),
        (IMAGES / 127.5 - 1, (-1, 1), IMAGES),
        (IMAGES.astype(np.float16) / 16, (0, 255 / 16), IMAGES),
        (IMAGES.astype(np.uint16), (0, 255), IMAGES),
        ((IMAGES > 99).astype(np.uint8), (0, 1), (IMAGES > 99) * 255),
        (IMAGES.astype(np.int32) - 1000, (-1000, -745), IMAGES),
    ],
)
def test_values_in_every_form_become_levels(
    tmp_path: Path, images: np.ndarray, value_range: Any, expected: np.ndarray
) -> None:
    module = module_of(archive(tmp_path, images=images), value_range=value_range)
    assert np.abs(module.load_split("train")[0][:, 0].numpy().astype(int) - expected).max() == 0


def test_scaled_values_get_the_levels_there_are(tmp_path: Path) -> None:
    module = module_of(archive(tmp_path, images=IMAGES > 99), native_levels=2)
    assert module.load_split("train")[0].unique().tolist() == [0, 1]


def test_arrays_change_channels_and_size_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = archive(tmp_path, images=COLOURS)
    grey = module_of(path, channels=1, side=4)
    assert grey.image_shape == (1, 4, 4)
    luma = (COLOURS @ [0.299, 0.587, 0.114]).reshape(60, 4, 2, 4, 2).mean((2, 4))
    assert np.abs(grey.load_split("train")[0][:, 0].numpy() - luma).max() <= 1.01
    opacity = np.where(IMAGES > 99, 255, 0).astype(np.uint8)
    path = archive(tmp_path, images=np.concatenate([COLOURS, opacity[..., None]], axis=3))
    laid = module_of(path, channels=3).load_split("train")[0].numpy()
    assert (laid == np.where(opacity[:, None] == 0, 255, np.moveaxis(COLOURS, 3, 1))).all()
    with caplog.at_level("INFO"):
        assert module_of(path).image_shape == (4, 8, 8)
    assert "images with 4 channels are read as they are; channels=3" in caplog.text


# --- folders ----------------------------------------------------------------------------------------------------------


def save(path: Path, image: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def test_a_folder_of_sets_is_read_as_they_are(tmp_path: Path) -> None:
    sets = {"train": range(0, 30), "Valid": range(30, 45), "test": range(45, 60)}
    for name, rows in sets.items():
        for row in rows:
            save(tmp_path / name / THINGS[row] / f"{row:02}.png", IMAGES[row])
    save(tmp_path / "train" / "unknown.png", IMAGES[0])
    module = module_of(tmp_path)
    module.setup()
    assert module.class_names == ("Ant", "bee", "zebra")
    for split, (name, rows) in zip(("train", "val", "test"), sets.items(), strict=True):
        order = sorted(rows, key=lambda row: (THINGS[row], row))
        images, labels = read(module, split)
        expected = [THINGS[row] for row in order] + [None] * (split == "train")
        assert labels == expected
        assert (images[: len(order), 0] == IMAGES[order]).all()
        first = module.image_name("test" if split == "test" else "train", int(module.split_indices(split)[0]))
        assert first == f"{name}/{THINGS[order[0]]}/{order[0]:02}.png"


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    """Vehicles and their like: with another class beside them these are no sets; nor is "test" alone."""
    for name in ("train", "test", "bus"):
        save(tmp_path / "a" / name / "x.png", IMAGES[0])
    assert module_of(tmp_path / "a").class_names == ("bus", "test", "train")
    save(tmp_path / "b" / "test" / "x.png", IMAGES[0])
    assert module_of(tmp_path / "b").class_names == ("test",)


def test_pictures_may_lie_deeper_in_their_class(tmp_path: Path) -> None:
    save(tmp_path / "a" / "2024" / "may" / "x.png", IMAGES[0])
    save(tmp_path / "b" / "x.png", IMAGES[1])
    module = module_of(tmp_path)
    assert module.class_names == ("a", "b")
    assert [module.image_name("train", row) for row in (0, 1)] == ["a/2024/may/x.png", "b/x.png"]


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_of_different_sizes_are_made_alike(tmp_path: Path, fit: Any) -> None:
    save(tmp_path / "a" / "0.png", np.full((40, 60), 90, dtype=np.uint8))
    save(tmp_path / "a" / "1.jpg", np.full((64, 64), 90, dtype=np.uint8), quality=95)
    with pytest.raises(ConfigurationError, match="one size and kind, or to make them so by side=32"):
        module_of(tmp_path)
    module = module_of(tmp_path, side=32, fit=fit, background=0.0)
    assert module.image_shape == (1, 32, 32)
    wide, square = module.load_split("train")[0][:, 0].int()
    assert (square - 90).abs().max() <= 2
    rows = (wide == 90).all(1)
    assert int(rows.sum()) == (32 if fit == "crop" else 20)  # 60 x 60, two thirds of it picture: 21.3 rows, 2 at edges
    assert fit == "crop" or wide[[0, -1]].unique().tolist() == [0]


def test_kinds_of_pictures_that_differ_are_made_alike_by_channels(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png", IMAGES[0])
    save(tmp_path / "a" / "1.png", COLOURS[1])
    with pytest.raises(ConfigurationError, match="or to make them so by channels=3"):
        module_of(tmp_path)
    assert module_of(tmp_path, channels=3).image_shape == (3, 8, 8)


def test_the_files_of_systems_are_passed_over_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for row in range(6):
        save(tmp_path / f"digit {row % 2}" / f"{row}.gif", IMAGES[row])
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "digit 0/Thumbs.db", "digit 1/._0.gif", "__MACOSX/x/._0.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("nothing")
    with caplog.at_level("INFO"):
        module = module_of(tmp_path)
    assert (module.num_classes, len(module.load_split("train")[0])) == (2, 6)
    said = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert said == [f"{tmp_path}: passed over .DS_Store (1), ._0.gif (1), Thumbs.db (2), __MACOSX (1), desktop.ini (1)"]


def test_a_gif_and_a_transparent_picture_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for row in range(3):
        frames = [Image.fromarray(IMAGES[row + k]) for k in range(3)]
        (tmp_path / "a").mkdir(exist_ok=True)
        frames[0].save(tmp_path / "a" / f"{row}.gif", save_all=True, append_images=frames[1:])
        save(tmp_path / "b" / f"{row}.png", np.stack([IMAGES[row], 255 - IMAGES[row]], axis=2))
    with caplog.at_level("INFO"):
        images = module_of(tmp_path).load_split("train")[0]
    assert (images[:3, 0].numpy() == IMAGES[:3]).all()
    assert caplog.text.count("3 of 6 pictures have several frames") == 1
    assert caplog.text.count("3 of 6 pictures have transparent parts, which are laid over background=1") == 1


def test_a_picture_beside_the_sets_is_refused(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "test/a/0.png", "lost.png"):
        save(tmp_path / name, IMAGES[0])
    with pytest.raises(ConfigurationError, match=r"lost.png lies beside test, train: allowed are pictures within"):
        module_of(tmp_path)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for row in range(12):
        save(folder / "pictures" / f"{row}.png", IMAGES[row])
    (folder / "x.csv").write_text(text, encoding=encoding)
    return folder / "x.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_names_pictures_and_some_of_their_labels(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["path", "label", "by"]] + [
        [f"pictures/{row}.png", THINGS[row] if row % 4 else "", "me"] for row in range(12)
    ]
    module = module_of(table(tmp_path, "\n".join(map(delimiter.join, rows)), encoding), val_fraction=0.25)
    images, labels = module.load_split("train")
    assert (images[:, 0].numpy() == IMAGES[:12]).all()
    assert module.class_names == ("Ant", "bee", "zebra")
    expected = [-1 if row % 4 == 0 else module.class_names.index(THINGS[row]) for row in range(12)]
    assert labels.tolist() == expected
    assert module.image_name("train", 3) == "pictures/3.png"


def test_numbers_with_gaps_are_read_as_pandas_writes_them(tmp_path: Path) -> None:
    rows = ["Filename,Class", *(f"pictures/{row}.png,{'' if row == 5 else f'{row % 3 + 1}.0'}" for row in range(12))]
    module = module_of(table(tmp_path, "\n".join(rows)))
    assert module.class_names == ("1", "2", "3")
    assert module.load_split("train")[1].tolist()[:6] == [0, 1, 2, 0, 1, -1]


def test_a_table_without_labels_and_of_windows_paths(tmp_path: Path) -> None:
    module = module_of(table(tmp_path, "path\n" + "\n".join(f"pictures\\{row}.png" for row in range(12))))
    assert module.num_classes is None
    assert len(module.load_split("train")[0]) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has 0 rows"),
        ("path,label", "it has 0 rows"),
        ("a,b\n1,2", "it has 1 rows and columns a, b: allowed is a column 'path'"),
        ("path,label\nnowhere.png,1", "row 1 has 'nowhere.png', which is not there"),
        ("path,label\n../outside.png,1", "row 1 has '../outside.png': allowed are paths within"),
        ("path,label\n/etc/passwd,1", "row 1 has '/etc/passwd': allowed are paths within"),
        ("path,label\nx.csv,1", "x.csv is damaged or of a kind"),
        ("path,label\n,1", "row 1 has '', which is not there"),
    ],
)
def test_tables_that_are_not_as_described_are_refused(tmp_path: Path, text: str, message: str) -> None:
    save(tmp_path / "outside.png", IMAGES[0])
    (tmp_path / "mine").mkdir()
    path = table(tmp_path / "mine", text)
    with pytest.raises(ConfigurationError, match=f"train_path='{path}' is not usable: .*{message}") as caught:
        module_of(path)
    assert "\n" not in str(caught.value)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_more_images_than_fit_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = expansion.free_memory()
    assert free is None or free > 0
    for row in range(60):
        save(tmp_path / "pictures" / f"{row}.png", IMAGES[row])
    stored = archive(tmp_path, images=IMAGES)
    for needed, path in ((60 * 64, tmp_path / "pictures"), (60 * 64 + 128, stored)):
        for spare, fits in ((0, True), (-1, False)):
            monkeypatch.setattr(expansion, "free_memory", lambda room=expansion.COPIES * needed + spare: room)
            if fits:
                module_of(path)
            else:
                with pytest.raises(ConfigurationError, match=r"where 0.00 GB are free and a gigabyte holds"):
                    module_of(path)
