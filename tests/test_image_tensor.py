from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import SMALL, pixelgan, refused
from PIL import Image
from realformats import digit_images

from pixelgan_lightning.datamodules import ImageTensorDataModule
from pixelgan_lightning.errors import ConfigurationError

IMAGES, LABELS = digit_images(60, size=8)
PARTLY = torch.where(torch.arange(60) % 3 == 0, -1, LABELS)


def save(path: Path, images: Any = IMAGES, labels: Any = LABELS, **more: Any) -> str:
    content = {name: value for name, value in {"images": images, "labels": labels, **more}.items() if value is not None}
    if path.suffix == ".pt":
        torch.save(content, path)
    else:
        np.savez(path, **{name: np.asarray(value) for name, value in content.items()})
    return str(path)


def save_pictures(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> str:
    """One PNG file an image: in a folder named after its class, or beside these."""
    folder.mkdir()
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder if label < 0 else folder / f"digit {label}"
        place.mkdir(exist_ok=True)
        pixels = image.numpy() if image.ndim == 2 else image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{number:03}.png")
    return str(folder)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_arrays_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    module = ImageTensorDataModule(save(tmp_path / f"x{suffix}", labels=PARTLY))
    images, labels = module.load_split("train")
    assert torch.equal(images, IMAGES[:, None])
    assert torch.equal(labels, PARTLY)
    assert (module.image_shape, module.num_classes, module.levels) == ((1, 8, 8), 10, 256)
    colours = torch.stack([IMAGES, IMAGES // 2, IMAGES // 3], dim=1)
    module = ImageTensorDataModule(save(tmp_path / f"y{suffix}", colours, LABELS.to(torch.uint8) % 4))
    assert torch.equal(module.load_split("train")[0], colours)
    assert (module.image_shape, module.num_classes) == ((3, 8, 8), 4)


def test_a_folder_is_read_by_class(tmp_path: Path) -> None:
    colours = torch.stack([IMAGES, IMAGES // 2, IMAGES // 3], dim=1)
    for number, images in enumerate((IMAGES, colours)):
        path = save_pictures(tmp_path / str(number), images, PARTLY)
        (Path(path) / ".hidden").write_text("not read")
        module = ImageTensorDataModule(path)
        read, labels = module.load_split("train")
        order = torch.cat([(label == PARTLY).nonzero().flatten() for label in [*range(10), -1]])
        assert torch.equal(labels, PARTLY[order])
        assert torch.equal(read, images[order].reshape(read.shape))
        assert module.num_classes == 10
    grey = ImageTensorDataModule(str(tmp_path / "1"), channels=1)
    assert grey.image_shape == (1, 8, 8)
    assert ImageTensorDataModule(str(tmp_path / "0"), channels=3).image_shape == (3, 8, 8)


def test_a_test_folder_numbers_its_classes_as_the_training_folder(tmp_path: Path) -> None:
    train = save_pictures(tmp_path / "train", IMAGES, LABELS)
    test = save_pictures(tmp_path / "test", IMAGES[LABELS >= 7], LABELS[LABELS >= 7])
    module = ImageTensorDataModule(train, test_path=test)
    assert module.load_split("test")[1].unique().tolist() == [7, 8, 9]
    (tmp_path / "test" / "letter").mkdir()
    shutil.copytree(tmp_path / "test" / "digit 7", tmp_path / "test" / "letter", dirs_exist_ok=True)
    module = ImageTensorDataModule(train, test_path=test)
    with pytest.raises(ConfigurationError, match=r"test_path=.* it has class 'letter': allowed .* digit 0"):
        module.setup("test")


def test_floating_point_images_are_rounded_to_levels(tmp_path: Path) -> None:
    grey = IMAGES.double() / 255
    module = ImageTensorDataModule(save(tmp_path / "x.npz", grey))
    assert torch.equal(module.load_split("train")[0], IMAGES[:, None])
    few = ImageTensorDataModule(save(tmp_path / "x.npz", grey), native_levels=4, levels=2)
    assert (few.load_split("train")[0][:, 0] - 3 * grey).abs().max() <= 0.5
    assert few.levels == 2


def test_splits_leave_unlabelled_images_in_their_proportion(tmp_path: Path) -> None:
    module = ImageTensorDataModule(save(tmp_path / "x.npz", labels=PARTLY), val_fraction=0.5)
    val = module.split_indices("val")
    assert (PARTLY[val] < 0).sum() == 10
    other = ImageTensorDataModule(str(tmp_path / "x.npz"), val_fraction=0.5, split_seed=1)
    assert not torch.equal(val, other.split_indices("val"))


def test_unlabelled_images_count_for_no_class(tmp_path: Path) -> None:
    few = torch.where((LABELS == 0) & (torch.arange(60) > 20), -1, LABELS)  # three images of class 0 are left
    module = ImageTensorDataModule(save(tmp_path / "x.npz", labels=few), batch_size=10, num_labelled=40)
    with pytest.raises(ConfigurationError, match=r"num_labelled=40 asks for 4 .* has [23] of class 0"):
        module.setup("fit")


def test_without_any_label_there_are_no_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", labels=None)
    module = ImageTensorDataModule(path, batch_size=10)
    module.setup("fit")
    assert module.num_classes is None
    assert module.labelled_indices is None
    assert next(iter(module.val_dataloader()))["label"].unique().tolist() == [-1]
    with pytest.raises(ConfigurationError, match=r"num_labelled=10 is not usable: allowed is null, as no image has"):
        ImageTensorDataModule(path, num_labelled=10)


def test_without_test_images_a_test_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz")
    module = ImageTensorDataModule(path, batch_size=10)
    module.setup()
    assert len(module.predict_dataloader()) == 2 == len(module.predict_split_names)
    with pytest.raises(
        ConfigurationError, match=r"train_path=.*: it has no test images: allowed for a test is test_path"
    ):
        module.setup("test")
    with pytest.raises(ConfigurationError, match="test_path='nowhere' does not exist"):
        ImageTensorDataModule(path, test_path="nowhere")


def test_a_test_file_of_other_sets(tmp_path: Path) -> None:
    """One set is what is meant; of two nobody can say which."""
    train = save(tmp_path / "x.npz")
    np.savez(tmp_path / "one.npz", x_val=IMAGES.numpy())
    np.savez(tmp_path / "two.npz", x_val=IMAGES.numpy(), x_train=IMAGES.numpy())
    module = ImageTensorDataModule(train, test_path=str(tmp_path / "one.npz"))
    module.setup("test")
    assert torch.equal(module.load_split("test")[0], IMAGES[:, None])
    module = ImageTensorDataModule(train, test_path=str(tmp_path / "two.npz"))
    with pytest.raises(ConfigurationError, match=r"test_path=.*: it has train and val images: allowed are test images"):
        module.setup("test")


NAN = torch.where(torch.arange(60)[:, None, None] == 7, torch.nan, IMAGES / 255)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": NAN}, r"NaN or infinite ones among them: allowed are 0 \(black\) to 1 \(white\)"),
        ({"images": IMAGES.float()}, r"numbers from 0 to 255: allowed are 0 .* value_range=\[0, 255\]"),
        ({"images": IMAGES.float() / 128 - 1}, r"numbers from -1 to 0.99.*: allowed are 0 .* value_range=\[-1, 1\]"),
        ({"images": IMAGES.short() * 2}, r"16-bit signed integers from 0 to 510: allowed are levels 0 to 255, and"),
        ({"images": IMAGES.to(torch.uint16)}, r"16-bit unsigned integers from 0 to 255: .* value_range=\[0, 255\]"),
        ({"images": IMAGES.to(torch.complex64)}, "images are complex64: allowed are numbers"),
        ({"images": IMAGES[0]}, r"images are \[8, 8\]: allowed are \[N, H, W\], \[N, C, H, W\] and \[N, H, W, C\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images are \[0, 1, 8, 8\]"),
        ({"images": None, "pictures": IMAGES}, "it has labels, pictures: allowed is an array 'images'"),
        ({"labels": LABELS[:50]}, r"labels are \[50\]: allowed is \[60\]"),
        ({"labels": LABELS[:, None, None]}, r"labels are \[60, 1, 1\]: allowed is \[60\]"),
        ({"labels": LABELS + 0.5}, "labels have 0.5: allowed are whole numbers"),
        ({"labels": LABELS * torch.inf}, "labels have inf: allowed are whole numbers"),
        ({"labels": LABELS.to(torch.complex64)}, "labels are complex64: allowed are text and whole numbers"),
        ({"labels": torch.ones(60, 4)}, r"labels are \[60, 4\] and row 0 is no single class"),
        ({"labels": LABELS - 2}, "labels go down to -2"),
        ({"images": None, "x_test": IMAGES, "labels": None}, "it has test images alone: allowed are training images"),
        ({"images": None, "x_train": IMAGES, "y_val": LABELS}, "it has y_val without images: allowed are both or none"),
        ({"x_train": IMAGES, "x": IMAGES, "images": None}, "it has x_train and x: allowed is one array of images"),
    ],
)
def test_arrays_that_are_not_as_described_are_refused(
    tmp_path: Path, suffix: str, content: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / f"x{suffix}", **content)
    with pytest.raises(ConfigurationError, match=f"train_path='{path}' is not usable: .*{message}") as caught:
        ImageTensorDataModule(path)
    assert "\n" not in str(caught.value)


class Surprise:
    """Leaves a file behind where a reader executes what it reads."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("executed").touch, ())


def test_files_are_read_without_executing_or_unpacking_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"images": IMAGES, "labels": Surprise()}, "x.pt")
    np.savez("x.npz", images=np.array([Surprise()], dtype=object))
    Path("y.npz").write_bytes(pickle.dumps(Surprise()))
    for name in ("x.pt", "x.npz", "y.npz"):
        with pytest.raises(ConfigurationError, match=f"train_path='{name}' is not usable"):
            ImageTensorDataModule(name)
    assert not Path("executed").exists()
    save(Path("z.npz"))
    with zipfile.ZipFile("z.npz", "a") as archive:
        archive.writestr("../escaped.npy", "what a careless reader would unpack")
    with pytest.raises(ConfigurationError, match=r"it has a file '../escaped.npy'"):
        ImageTensorDataModule("z.npz")
    assert not Path("../escaped.npy").exists()


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize("length", [0, 10, 300, 2000, -1])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, length: int) -> None:
    path = Path(save(tmp_path / f"x{suffix}"))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigurationError, match=f"train_path='{path}' is not usable") as caught:
        ImageTensorDataModule(str(path))
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"images": [1, 2]}, tmp_path / "lists.pt")
    (tmp_path / "x.tar").write_text("")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, IMAGES.numpy())
    for name, message in (
        ("list.pt", "holds a list: allowed is a dictionary"),
        ("lists.pt", "'images' is a list: allowed are tensors"),
        ("x.tar", "ends in '.tar': allowed are .npz, .pt, .csv and folders"),
        ("array.npz", "it is one array"),
        ("nowhere.npz", "No such file"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(ConfigurationError, match=f"train_path='{tmp_path / name}' is not usable: .*{message}"):
            ImageTensorDataModule(str(tmp_path / name))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt is no picture: allowed are .png"),
        (lambda folder: (folder / "empty").mkdir(), "class 'empty' is empty"),
        (lambda folder: (folder / "x.png").write_bytes(b"x"), "x.png is damaged"),
        (lambda folder: Image.new("L", (9, 8)).save(folder / "x.png"), r"x.png is \[1, 8, 9\] .* one size and kind"),
        (lambda folder: Image.new("RGB", (8, 8)).save(folder / "x.png"), r"x.png is \[3, 8, 8\] .* one size and kind"),
    ],
)
def test_folders_that_are_not_as_described_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    folder = save_pictures(tmp_path / "x", IMAGES, LABELS)
    make(tmp_path / "x")
    with pytest.raises(ConfigurationError, match=f"train_path='{folder}' is not usable: .*{message}"):
        ImageTensorDataModule(folder)


def test_truncated_pictures_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="it is empty"):
        ImageTensorDataModule(str(tmp_path / "empty"))
    folder = save_pictures(tmp_path / "x", IMAGES, LABELS)
    picture = tmp_path / "x" / "digit 0" / "000.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(ConfigurationError, match=r"000.png is damaged"):
        ImageTensorDataModule(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"native_levels": 257},
        {"channels": 2},
        {"levels": 300},
        {"background": 1.5},
        {"side": 0},
        {"fit": "zoom"},
        {"value_range": (1, 0)},
    ],
)
def test_unusable_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ConfigurationError, match=re.escape(f"{name}={value} is not usable") + ".*allowed are"):
        ImageTensorDataModule(save(tmp_path / "x.npz"), **arguments)
    with pytest.raises(ConfigurationError, match=r"val_fraction=0.001 is not usable with 60 images"):
        ImageTensorDataModule(str(tmp_path / "x.npz"), val_fraction=0.001).setup("fit")


def test_the_command_line_takes_images_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shape and number of classes follow the images; images without label count for no accuracy."""
    monkeypatch.chdir(tmp_path)
    colours = torch.stack([IMAGES, IMAGES // 2], dim=1)[:, :, 1:]
    four = torch.where(PARTLY < 0, -1, PARTLY % 4)
    save(Path("train.pt"), colours, four)
    save(Path("test.pt"), colours, torch.where(torch.arange(60) < 6, four, -1))
    data = ["--data", "ImageTensorDataModule", "--data.train_path", "train.pt", "--data.levels", "17"]
    data += ["--data.val_fraction", "0.3", "--data.num_labelled", "8", "--data.labelled_batch_size", "8"]
    data += ["--data.batch_size", "16", "--trainer.callbacks", "ClusterAccuracy"]
    pixelgan("fit", "--config", SMALL, *data, "--data.test_path", "test.pt", "--run_dir", "run")
    pixelgan("test", "--ckpt_path", "run/checkpoints/last.ckpt")
    results = json.loads(Path("run/results.json").read_text())
    validation = ImageTensorDataModule("train.pt", val_fraction=0.3).split_indices("val")
    assert results["test/mapping_labels"] == (four[validation] >= 0).sum()
    assert (4 * results["test/cluster_accuracy"]) % 1 == pytest.approx(0, abs=1e-6)  # of the 4 images with label
    pixelgan("predict", "--ckpt_path", "run/checkpoints/last.ckpt")
    line = refused(capsys, "fit", "--config", SMALL, "--data", "ImageTensorDataModule", "--data.train_path", "no.npz")
    assert line.startswith("train_path='no.npz' is not usable: it is missing")
