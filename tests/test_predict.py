"""``pixelgan predict``: tables of the run's own images and of others."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commandline import SMALL, all_phases, pixelgan, refused
from PIL import Image
from sklearn.datasets import load_digits

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.files.weights import build, read_checkpoint, read_folder

CHECKPOINT = Path("run") / "checkpoints" / "last.ckpt"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose categories were named by validation labels."""
    folder = tmp_path_factory.mktemp("trained")
    accuracy = '[{"class_path": "ClusterAccuracy"}]'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pixelgan("fit", "--config", SMALL, "--trainer.callbacks", accuracy, "--run_dir", "run")
    return folder


@pytest.fixture
def pictures(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digits as 16x16 PNG files: of class "3", of a class that the run does not know, and without a class."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "run", "run")
    folder = tmp_path / "pictures"
    for i, name in enumerate(["3/a.png", "horse/b.png", "c, d.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        digit = np.rint(load_digits().images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(digit.repeat(2, 0).repeat(2, 1)).save(folder / name)
    return folder


def test_pictures_that_were_not_seen_in_training(pictures: Path) -> None:
    pixelgan("predict", "--ckpt_path", CHECKPOINT, "--images", pictures, "--out", "table.csv")
    stored = read_checkpoint(CHECKPOINT)
    model = build(PixelGAN, stored, "")
    rows = rows_of(Path("table.csv"))
    assert [row["file"] for row in rows] == ["3/a.png", "horse/b.png", "c, d.png"]
    assert [row["label"] for row in rows] == ["3", "", ""]
    arrays = np.load("table.npz")
    levels = torch.tensor(load_digits().images[:3]).float()[:, None] / 16
    codes = model.encode(levels)
    assert torch.allclose(torch.from_numpy(arrays["code"]), codes, atol=1e-6)
    assert stored.classes is not None
    assert [row["class"] for row in rows] == [stored.classes.name_of_category(k) for k in codes.argmax(1).tolist()]
    assert not (Path("run") / "predictions").exists()


def test_the_data_of_the_run_need_not_be_there(pictures: Path) -> None:
    """As when a run was trained on images of another machine."""
    content = torch.load(CHECKPOINT, weights_only=True)
    text = content["pixelgan_lightning_config"]
    assert "DigitsDataModule" in text
    data = "data:\n  class_path: ImageTensorDataModule\n  init_args: {train_path: /nowhere, fit: pad}\n"
    content["pixelgan_lightning_config"] = data
    torch.save(content, CHECKPOINT)
    pixelgan("predict", "--ckpt_path", CHECKPOINT, "--images", pictures)
    rows = rows_of(Path("run/predictions/images.csv"))
    assert len(rows) == 3
    assert all(row["class"] for row in rows)  # the checkpoint says what the categories stand for


def test_splits_of_the_run(pictures: Path) -> None:
    pixelgan("predict", "--ckpt_path", CHECKPOINT, "--out", "all.csv")
    rows = rows_of(Path("all.csv"))
    assert [list(dict.fromkeys(row["split"] for row in rows)), len(rows)] == [["train", "val", "test"], 1797]


def test_a_checkpoint_that_knows_no_classes_gives_categories(pictures: Path) -> None:
    content = torch.load(CHECKPOINT, weights_only=True)
    del content["pixelgan_lightning_classes"], content["callbacks"]
    torch.save(content, CHECKPOINT)
    pixelgan("predict", "--ckpt_path", CHECKPOINT, "--images", pictures, "--out", "table.csv")
    assert list(rows_of(Path("table.csv"))[0]) == ["file", "row", "category", "category_probability", "label"]


def test_an_exported_folder_knows_what_its_categories_stand_for(pictures: Path) -> None:
    pixelgan("export", "--ckpt_path", CHECKPOINT, "--out", "exported")
    assert read_folder("exported").classes == read_checkpoint(CHECKPOINT).classes
    assert read_folder("exported").classes is not None


def test_unusable(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("predict", "--ckpt_path", CHECKPOINT)
    assert "images=pictures without ckpt_path" in refused(capsys, "predict", "--images", "pictures")
    assert "images='nowhere' is not usable" in refused(capsys, *command, "--images", "nowhere")
    assert "allowed are names that end in .csv" in refused(capsys, *command, "--out", "table.txt")
    (pictures / "broken.png").write_bytes(b"no picture")
    assert "broken.png" in refused(capsys, *command, "--images", pictures)


@pytest.mark.parametrize("categories", [10, 12])
def test_categories_have_no_names_before_labels_give_them_some(
    categories: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the agreement is alone a category is no class yet; when it ends, categories change their places."""
    monkeypatch.chdir(tmp_path)
    phases = all_phases(agreement={"alone": 3})
    Path("named.yaml").write_text(yaml.safe_dump({"model": {"phases": phases}}))
    labels = ["--data.num_labelled", 100, "--data.labelled_batch_size", 100, "--model.augmentation", "RandomAffine"]
    fit = ["fit", "--config", SMALL, "--config", "named.yaml", *labels, "--model.prior.num_categories", categories]
    accuracy = ["--trainer.callbacks", '[{"class_path": "ClusterAccuracy"}]', "--trainer.limit_train_batches", 10]
    for steps in (2, 4):  # neither ends an epoch, so that no validation has looked
        pixelgan(*fit, *accuracy, "--trainer.max_steps", steps, "--run_dir", f"run{steps}")
    before, behind = (read_checkpoint(Path(f"run{steps}") / "checkpoints" / "last.ckpt").classes for steps in (2, 4))
    assert before is None
    if categories == 10:
        assert behind is not None
        assert behind.of_category == tuple(range(10))
    else:
        assert behind is None
