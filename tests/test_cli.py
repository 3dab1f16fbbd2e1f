"""The command line: configuration, run folders, checkpoints, flags of the trainer, loggers, and unusable input."""

from __future__ import annotations

import csv
import inspect
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import CONFIGS, SMALL, all_phases, load_step, metrics, pixelgan, pixelgan_process, refused
from external_prior import Ring
from realformats import write_mnist
from torch import Tensor

from pixelgan_lightning import PixelGAN, __version__, commands, datamodules
from pixelgan_lightning.commands import trainer
from pixelgan_lightning.configuration.classes import find
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.priors import Gaussian
from pixelgan_lightning.training.loggers import RunWandbLogger

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")  # runs are moved here

FIT = ["fit", "--config", SMALL]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fit."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    pixelgan(*FIT, "--run_dir", folder)
    return folder


@pytest.fixture
def run(trained: Path, _working_folder: None) -> Path:
    """A copy of a finished fit's folder, in the working folder: runs can be moved."""
    return Path(shutil.copytree(trained, "run"))


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def config_of(run: Path, name: str = "config.yaml") -> dict[str, Any]:
    return yaml.safe_load((run / name).read_text())


def load(run: Path) -> PixelGAN:
    return PixelGAN.load_from_checkpoint(last(run), map_location="cpu", weights_only=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def yaml_file(name: str, content: dict[str, Any]) -> Path:
    path = Path(name)
    path.write_text(yaml.safe_dump(content))
    return path


# ------------------------------------------------------------------------------------------------------ configuration


def test_shapes_flow_from_the_data_to_the_model(run: Path) -> None:
    model = load(run)
    assert (model.image_shape, model.num_classes) == ((1, 8, 8), 10)
    assert not {"image_shape", "num_classes", "seed"} & config_of(run)["model"].keys()


def test_files_stack_and_flags_override() -> None:
    other = yaml_file(
        "other.yaml",
        {
            "model": {
                "phases": {
                    "reconstruction": {
                        "class_path": "ReconstructionPhase",
                        "init_args": {"lr": 0.25, "encoder_lr": 0.5},
                    }
                }
            }
        },
    )
    pixelgan(
        *FIT,
        "--config",
        other,
        "--model.phases.reconstruction.encoder_lr",
        "0.125",
        "--seed_everything",
        3,
        "--run_dir",
        "run",
    )
    model = config_of(Path("run"))["model"]
    reconstruction = model["phases"]["reconstruction"]["init_args"]
    assert (reconstruction["lr"], reconstruction["encoder_lr"]) == (0.25, 0.125)
    assert list(model["phases"]) == ["reconstruction"]
    assert model["decoder"]["init_args"]["channels"] == 4  # from the first file
    assert load(Path("run")).seed == 3


def test_another_class_starts_from_its_own_defaults() -> None:
    write_mnist(Path("data"), train=80, test=20)
    model = {
        "prior": {"class_path": "Gaussian"},
        "likelihood": {"class_path": "Bernoulli"},
    }
    data = {"class_path": "MNISTDataModule", "init_args": {"num_val": 10}}
    other = yaml_file("other.yaml", {"model": model, "data": data})
    pixelgan(*FIT, "--config", other, "--data.batch_size", "16", "--model.prior.dim", "3", "--run_dir", "run")
    loaded = load(Path("run"))
    assert loaded.image_shape == (1, 28, 28)
    assert loaded.hparams["prior"]["init_args"] == {"dim": 3}
    assert loaded.hparams["likelihood"]["init_args"] == {}
    saved = config_of(Path("run"))["data"]["init_args"]
    assert (saved["batch_size"], saved["num_val"], saved["binarization"]) == (16, 10, "dynamic")  # MNIST's default

    flags = ["--model.likelihood", "Bernoulli", "--data", "MNISTDataModule", "--data.num_val", "10"]
    pixelgan(*FIT, *flags, "--run_dir", "other")
    saved = config_of(Path("other"))["data"]["init_args"]
    assert (saved["batch_size"], saved["binarization"]) == (64, "dynamic")


def test_packaged_configurations_are_found_from_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit", "--config", "configs/digits_clustering.yaml", "--model.posterior.gain", "much")
    assert line == "model.posterior.gain=much is not usable: allowed is float"
    assert "ships with the package" not in line


def test_a_prior_from_outside_trains_tests_and_reloads() -> None:
    prior = {"class_path": "external_prior.Ring", "init_args": {"modes": 5}}
    posterior = {"class_path": "GaussianPosterior"}
    other = yaml_file("ring.yaml", {"model": {"prior": prior, "posterior": posterior}})
    pixelgan(*FIT, "--config", other, "--model.prior.init_args.radius", "3", "--run_dir", "run")
    pixelgan("test", "--ckpt_path", "run/checkpoints/last.ckpt")
    assert json.loads(Path("run/results.json").read_text())["test/reconstruction"] > 0
    ring = load(Path("run")).prior
    assert isinstance(ring, Ring)
    assert (ring.modes, ring.radius, ring.scale) == (5, 3.0, 0.1)


# -------------------------------------------------------------------------------------------------------- run folders


def test_runs_never_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")  # both start in the same second
    pixelgan(*FIT)
    first = files(Path("runs/digits-now"))
    pixelgan(*FIT)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits-now", "digits-now-1"]
    assert files(Path("runs/digits-now")) == first
    assert last(Path("runs/digits-now-1")).is_file()


def test_a_folder_given_twice_gets_a_numbered_sibling(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    pixelgan(*FIT, "--run_dir", run)
    said = [line for line in capsys.readouterr().out.splitlines() if "earlier run" in line]
    assert len(said) == 1
    assert said[0].startswith("run holds an earlier run; this one goes to run-1")
    assert files(run) == before
    assert files(Path("run-1")).keys() == before.keys()


def test_an_existing_folder_without_a_run_is_used() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    pixelgan(*FIT, "--run_dir", "mine")
    assert last(Path("mine")).is_file()


def test_testing_writes_beside_the_fit(run: Path, trained: Path) -> None:
    before, original = files(run), files(trained)
    pixelgan("test", "--run_dir", run, "--ckpt_path", "last")
    pixelgan("test", "--ckpt_path", last(run))
    after = files(run)
    assert {name: after[name] for name in before} == before
    assert {"results.json", "test/metrics.csv", "test-1/metrics.csv"} <= after.keys()
    assert files(trained) == original  # where the copied run came from
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_a_continued_fit_goes_on_in_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    assert load_step(run) == 2
    pixelgan("fit", "--run_dir", run, "--ckpt_path", "last", "--trainer.max_epochs", 2)
    after = files(run)
    assert load_step(run) == 4
    kept = {name for name in before if not name.startswith("checkpoints/")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert metrics(run / "fit" / "metrics.csv", "step")[0] == 0
    assert metrics(run / "fit-1" / "metrics.csv", "step")[0] == 2
    assert config_of(run, "config-1.yaml")["trainer"]["max_epochs"] == 2
    assert len(list((run / "checkpoints").glob("last*"))) == 1
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_a_fit_from_another_runs_checkpoint_gets_a_folder_of_its_own(run: Path) -> None:
    before = files(run)
    pixelgan("fit", "--ckpt_path", last(run), "--trainer.max_epochs", 2, "--run_dir", "fork")
    assert files(run) == before
    fork = files(Path("fork"))
    assert load_step(Path("fork")) == 4
    pixelgan("fit", "--ckpt_path", last(run), "--trainer.max_epochs", 2, "--run_dir", "fork")
    assert files(Path("fork")) == fork
    assert load_step(Path("fork-1")) == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ckpt_path", "nowhere/last.ckpt"], "ckpt_path=nowhere/last.ckpt is not usable: there is no file"),
        (["--ckpt_path", "last"], "ckpt_path=last is not usable without run_dir"),
        (["--ckpt_path", "last", "--run_dir", "gone"], "there is no file gone/checkpoints/last.ckpt"),
        (["--ckpt_path", SMALL], "allowed are checkpoints of this model"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_that_is_not_there(
    command: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, command, "--config", SMALL, *arguments)
    assert list(Path().iterdir()) == []


def test_a_refused_run_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, *FIT, "--data.num_labelled", "15", "--run_dir", "run")
    assert list(Path().iterdir()) == []


# ------------------------------------------------------------------------------------------- checkpoint against flags


def results(run: Path, *arguments: object) -> dict[str, float]:
    pixelgan("test", "--ckpt_path", last(run), *arguments)
    return json.loads((run / "results.json").read_text())


def test_the_checkpoint_decides_about_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = results(run)
    assert "is not used" not in capsys.readouterr().out

    rate = ["--model.phases.reconstruction.encoder_lr", "0.5"]
    flags = ["--model.decoder.init_args.channels", "24", *rate, "--model.prior", "Gaussian"]
    assert results(run, *flags) == wanted
    said = capsys.readouterr().out.splitlines()
    assert "model.decoder.init_args.channels: 24 is not used, the checkpoint has 4" in said
    assert "model.phases.reconstruction.init_args.encoder_lr: 0.5 is not used, the checkpoint has None" in said
    assert any(line.startswith("model.prior: 'pixelgan_lightning.priors.Gaussian' is not used") for line in said)
    assert sum("is not used" in line for line in said) == 3


def test_a_continued_run_has_the_model_that_it_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["fit", "--run_dir", run, "--ckpt_path", "last", "--trainer.max_epochs", 2]
    line = refused(capsys, *again, "--model.phases.reconstruction.lr", "1e-4")
    assert "model.phases.reconstruction.init_args.lr=0.0001 does not continue a run with 0.001" in line
    assert "--init_from" in line
    pixelgan(*again, "--model.phases.reconstruction.lr", "1e-3", "--config", SMALL, "--trainer.max_epochs", 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--model.phases.mine", "ReconstructionPhase"],
            "model.phases.mine='pixelgan_lightning.phases.ReconstructionPhase' does not continue a run with None",
        ),
        (
            ["--model.phases", '{"reconstruction": {"class_path": "ReconstructionPhase"}}'],
            "model.phases.discriminator=None does not continue a run with 'pixelgan_lightning.phases.discrim",
        ),
        (
            ["--model.augmentation", "RandomAffine"],
            "model.augmentation='pixelgan_lightning.augmentations.RandomAffine' does not continue a run with None",
        ),
    ],
)
def test_a_part_more_or_less_is_another_model(
    arguments: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "fit", "--run_dir", run, "--ckpt_path", "last", *arguments)


def test_a_part_that_is_switched_off_is_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    pixelgan("fit", "--config", SMALL, "--model.augmentation", "RandomAffine", "--run_dir", "views")
    line = refused(capsys, "fit", "--run_dir", "views", "--ckpt_path", "last", "--model.augmentation", "null")
    assert "model.augmentation=None does not continue a run with 'pixelgan_lightning.augmentations." in line
    pixelgan("test", "--ckpt_path", "views/checkpoints/last.ckpt", "--model.augmentation", "null")
    assert "model.augmentation: None is not used" in capsys.readouterr().out


def test_the_checkpoint_decides_against_another_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = results(run)
    content = yaml.safe_load(Path(SMALL).read_text())
    content["model"]["decoder"]["init_args"] = {"channels": 6, "layers": 1, "first_kernel": 3}
    content["model"]["prior"]["init_args"] = {"num_categories": 12}
    capsys.readouterr()
    assert results(run, "--config", yaml_file("other.yaml", content)) == wanted
    said = [line for line in capsys.readouterr().out.splitlines() if "is not used" in line]
    assert sorted(said) == [
        "model.decoder.init_args.channels: 6 is not used, the checkpoint has 4",
        "model.prior.init_args.num_categories: 12 is not used, the checkpoint has 10",
    ]


def test_a_configuration_beside_the_checkpoint_changes_that_of_the_run(run: Path) -> None:
    """Whatever it does not mention stays as it was; the checkpoint brings it along, wherever it lies."""
    wanted = results(run)
    assert len(wanted) > 1
    shutil.move(last(run), "elsewhere.ckpt")
    overlay = yaml_file("overlay.yaml", {"trainer": {"logger": False}})
    pixelgan("test", "--ckpt_path", "elsewhere.ckpt", "--config", overlay)
    assert json.loads(Path("results.json").read_text()) == wanted


def test_a_continuation_is_continued_as_it_was(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["fit", "--run_dir", run, "--ckpt_path", "last"]
    pixelgan(*again, "--trainer.max_epochs", 2, "--data.init_args.eval_batch_size", 30)
    assert "data.init_args.eval_batch_size: 30 from here on" in capsys.readouterr().out
    pixelgan(*again, "--trainer.max_epochs", 3)
    assert "from here on" not in capsys.readouterr().out
    assert config_of(run, "config-2.yaml")["data"]["init_args"]["eval_batch_size"] == 30
    before = files(run / "checkpoints")
    pixelgan(*again)
    assert files(run / "checkpoints") == before  # it had been trained to its end


def test_a_test_has_the_seed_of_the_run() -> None:
    pixelgan(*FIT, "--run_dir", "seven", "--seed_everything", 7)
    pixelgan("fit", "--run_dir", "seven", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert load(Path("seven")).seed == 7


def test_a_checkpoint_made_without_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = PixelGAN((1, 8, 8), prior=Gaussian(3), encoder=ConvEncoder([8], 16), decoder=GatedPixelCNN(4, layers=1))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_steps=1, limit_val_batches=0, enable_checkpointing=False, default_root_dir=".", **quiet)
    data = DigitsDataModule(binarization="threshold")
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint("mine.ckpt")
    wanted = trainer.test(model, datamodule=data, verbose=False)[0]["test/reconstruction"]

    capsys.readouterr()
    flags = ["--data.binarization", "threshold", "--model.prior.init_args.dim", "2"]
    pixelgan("test", "--ckpt_path", "mine.ckpt", *flags)
    said = [line for line in capsys.readouterr().out.splitlines() if "is not used" in line]
    assert said == ["model.prior.init_args.dim: 2 is not used, the checkpoint has 3"]
    assert json.loads(Path("results.json").read_text())["test/reconstruction"] == pytest.approx(wanted)


def test_a_checkpoint_of_a_class_that_cannot_be_imported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(last(run), weights_only=True)
    content["hyper_parameters"]["prior"] = {"class_path": "nowhere.Ring", "init_args": {}}
    torch.save(content, "ring.ckpt")
    line = refused(capsys, "test", "--ckpt_path", "ring.ckpt", "--allow", "nowhere")
    assert "ckpt_path=ring.ckpt" in line
    assert "No module named 'nowhere'" in line


def test_data_of_another_shape_than_the_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "test", "--ckpt_path", last(run), "--data", "MNISTDataModule")
    assert line == "data with image_shape=[1, 28, 28] is not usable: the checkpoint is for [1, 8, 8]"


def test_validate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixelgan("validate", "--ckpt_path", last(run))
    assert metrics(run / "validate" / "metrics.csv", "val/reconstruction")
    assert "initial weights" not in capsys.readouterr().out
    pixelgan("validate", "--config", SMALL)
    assert "validate without --ckpt_path: the model has its initial weights" in capsys.readouterr().out
    pixelgan("validate", "--config", SMALL, "--init_from", last(run))
    assert "initial weights" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ predict


def test_predict_writes_a_row_per_image(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(PixelGAN, "on_predict_end", lambda self: kept.append(self.trainer.predict_loop.predictions))
    pixelgan("predict", "--ckpt_path", last(run))
    assert kept == [[]]
    indices = {}
    for split in ("train", "val", "test"):
        with (run / "predictions" / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        indices[split] = {int(row["row"]) for row in rows}
        assert len(indices[split]) == len(rows)
        codes = np.load(run / "predictions" / f"{split}.npz")["code"]
        assert [int(row["category"]) for row in rows] == codes.argmax(1).tolist()
    assert {split: len(rows) for split, rows in indices.items()} == {"train": 1197, "val": 300, "test": 300}
    assert not (run / "results.json").exists()


# --------------------------------------------------------------------------------------------------- trainer's flags


class Record:
    """What training and evaluation saw."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.order: list[str] = []

    def count(self, what: str) -> int:
        return self.order.count(what)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    seen = Record()
    training_step, evaluate = PixelGAN.training_step, PixelGAN._evaluate

    def train(self: PixelGAN, batch: Any, batch_idx: int) -> None:
        seen.trained.append(batch["unlabelled"]["image"])
        seen.order.append("train")
        training_step(self, batch, batch_idx)

    def evaluated(self: PixelGAN, batch: Any, batch_idx: int, split: str) -> None:
        seen.order.append(split)
        evaluate(self, batch, batch_idx, split)

    monkeypatch.setattr(PixelGAN, "training_step", train)
    monkeypatch.setattr(PixelGAN, "_evaluate", evaluated)
    return seen


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"], (3, 2)),
        (["--trainer.limit_train_batches", "0.1", "--trainer.limit_val_batches", "0.5"], (3, 5)),
        (["--trainer.limit_val_batches", "0"], (2, 0)),
    ],
)
def test_limits(flags: list[str], expected: tuple[int, int], record: Record) -> None:
    pixelgan(*FIT, "--data.eval_batch_size", "30", *flags)  # 37 training, 10 validation batches
    assert (record.count("train"), record.count("val")) == expected


@pytest.mark.parametrize(("limit", "expected"), [("3", 3), ("0.2", 2)])
def test_limit_of_tests(limit: str, expected: int, run: Path, record: Record) -> None:
    flags = ["--data.eval_batch_size", "30", "--trainer.limit_test_batches", limit]
    pixelgan("test", "--ckpt_path", last(run), *flags)
    assert record.order == ["test"] * expected


def test_validation_twice_an_epoch(record: Record) -> None:
    pixelgan(*FIT, "--trainer.limit_train_batches", "4", "--trainer.val_check_interval", "0.5")
    assert record.order == ["train", "train", "val"] * 2


def test_overfitting_sees_the_same_batches_again(record: Record) -> None:
    pixelgan(*FIT, "--trainer.overfit_batches", "2", "--trainer.max_epochs", "2")
    assert record.count("train") == 4
    first, second, *again = record.trained
    assert not first.equal(second)
    assert again[0].equal(first)
    assert again[1].equal(second)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_fast_dev_run_leaves_no_files(
    command: str, run: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(Path())
    model = FIT if command == "fit" else ["test", "--ckpt_path", last(run)]
    pixelgan(*model, "--trainer.fast_dev_run", "true")
    assert record.order == (["train", "val"] if command == "fit" else ["test"])
    assert files(Path()) == before
    assert "next:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "missing"), [("--trainer.logger", "fit"), ("--trainer.enable_checkpointing", "checkpoints/last.ckpt")]
)
def test_switching_off(flag: str, missing: str) -> None:
    pixelgan(*FIT, flag, "false", "--run_dir", "run")
    assert Path("run/config.yaml").is_file()
    for name in ("fit/metrics.csv", "checkpoints/last.ckpt"):
        assert Path("run", name).exists() == (not name.startswith(missing))


def test_a_progress_bar_is_drawn_unless_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    pixelgan(*FIT, "--trainer.enable_progress_bar", "true")
    assert "Epoch 0/0" in capsys.readouterr().out
    pixelgan(*FIT)
    assert "Epoch" not in capsys.readouterr().out


def test_all_loggers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}},
        {"class_path": "WandbLogger", "init_args": {"project": "pixelgan", "save_dir": "runs"}},
    ]
    pixelgan(*FIT, "--config", yaml_file("loggers.yaml", {"trainer": {"logger": loggers}}), "--run_dir", "run")
    wandb.finish()
    assert metrics(Path("run/fit/metrics.csv"), "train/reconstruction")
    assert list(Path("run/fit").glob("events.out.tfevents.*"))
    assert list(Path("run/wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in Path().iterdir()} == {"loggers.yaml", "run"}


def test_names_are_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    flags = [
        "--trainer.enable_progress_bar",
        "true",
        "--run_dir",
        "run",
        "--trainer.callbacks+=InformationDecomposition",
    ]
    pixelgan(*FIT, *flags)
    assert "train/reconstruction:" in capsys.readouterr().out
    for command, split in (("validate", "val"), ("test", "test")):
        pixelgan(command, "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.enable_progress_bar", "false")
        shown_ = capsys.readouterr().out
        assert f" {split}/reconstruction_one_hot " in shown_
        assert "…" not in shown_


def test_a_log_of_small_data_has_rows_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Lightning logs every 50 batches; an interval of the user's stays."""
    content = yaml.safe_load(Path(SMALL).read_text())
    del content["trainer"]["log_every_n_steps"]
    config = yaml_file("mine.yaml", content)
    pixelgan("fit", "--config", config, "--run_dir", "chosen")
    assert metrics(Path("chosen/fit/metrics.csv"), "train/reconstruction")
    assert not [warning for warning in recwarn if "logging interval" in str(warning.message)]
    pixelgan("fit", "--config", config, "--trainer.log_every_n_steps", 50, "--run_dir", "given")
    assert not metrics(Path("given/fit/metrics.csv"), "train/reconstruction")
    assert [warning for warning in recwarn if "logging interval" in str(warning.message)]


@pytest.mark.parametrize("averaged", [False, True])
def test_which_weights_are_used_is_said(averaged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.callbacks+=ExponentialMovingAverage"] if averaged else []
    pixelgan(*FIT, *flags, "--run_dir", "run")
    which = f"{'their moving average' if averaged else 'as trained'}, step 2"
    checkpoint = "run/checkpoints/last.ckpt"
    for command in (["validate"], ["test"], ["predict"]):
        assert f"weights: {which}" in shown(capsys, *command, "--ckpt_path", checkpoint).splitlines()
    for command in (["sample", "--out", "out.npz", "--num", "1"], ["export", "--out", "mine"]):
        line = f"ckpt_path={checkpoint}: weights {which}"
        assert line in shown(capsys, *command, "--ckpt_path", checkpoint).splitlines()


def test_results_that_cannot_be_written_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "results.json" / "in the way").mkdir(parents=True)
    with pytest.raises(SystemExit) as exit_:
        pixelgan("test", "--ckpt_path", last(run))
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: run/results.json cannot be written: ")


def test_no_place_of_the_machine_is_told_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the argument is called that holds it; names of classes and numbers are told."""
    told: list[Any] = []
    monkeypatch.setattr(RunWandbLogger, "log_hyperparams", lambda self, params: told.append(params))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    images = DigitsDataModule()
    images.setup("fit")
    batch = next(iter(images.val_dataloader()))["image"]
    np.savez(tmp_path / "mine.npz", images=(batch * 16).byte().numpy(), labels=np.arange(len(batch)) % 10)
    mine = ["--data", "ImageTensorDataModule", "--data.train_path", tmp_path / "mine.npz", "--data.levels", 17]
    pixelgan(*FIT, *mine, "--data.batch_size", 16, "--trainer.logger", "RunWandbLogger", "--run_dir", tmp_path / "run")
    config = next(params for params in told if "data" in params)
    assert str(tmp_path) not in json.dumps(config)
    assert "train_path" not in config["data"]["init_args"]
    assert config["data"]["class_path"].endswith("ImageTensorDataModule")
    assert config["data"]["init_args"]["batch_size"] == 16


# ------------------------------------------------------------------------------------------------------ unusable input

BERNOULLI = ["--model.likelihood", "Bernoulli"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.num_labelled", "100000"], ["num_labelled=100000", "allowed are at most"]),
        (["--data.num_labelled", "15"], ["num_labelled=15", "multiples of 10"]),
        (
            ["--data.num_labelled", "20", "--data.labelled_batch_size", "20", "--model.prior.num_categories", "5"],
            ["num_categories=5", ">= 10"],
        ),
        (
            ["--data.num_labelled", "20", "--data.labelled_batch_size", "30"],
            ["labelled_batch_size=30", "allowed are at most 20"],
        ),
        (["--data.batch_size", "1198"], ["batch_size=1198", "allowed are at most 1197"]),
        (BERNOULLI, ["Bernoulli", "levels=2", "levels=17"]),
        (["--model.prior", "Nope"], ["model.prior=Nope", "Categorical, Gaussian", "class_path of any Prior"]),
        (["--model.prior", "nowhere.Ring"], ["model.prior=nowhere.Ring", "nowhere"]),
        (["--model.prior", "math.pi"], ["model.prior=math.pi"]),
        (["--model.decoder", "Nope"], ["model.decoder=Nope", "GatedPixelCNN"]),
        (["--data", "Nope"], ["data=Nope", "DigitsDataModule, "]),
        (["--trainer.callbacks", "Nope"], ["trainer.callbacks=Nope", "ClusterAccuracy, "]),
        (["--trainer.callbacks+=Nope"], ["trainer.callbacks=Nope", "SampleGrid"]),
        (["--trainer.logger", "Nope"], ["trainer.logger=Nope"]),
        (
            ["--model.prior.num_catgories", "5"],
            ["model.prior.num_catgories", "did you mean num_categories?"],
        ),
        (["--data.size", "5"], ["data.size", "DigitsDataModule has split_seed, batch_size"]),
        (["--model.size", "5"], ["model.size is unknown", "PixelGAN has"]),
        (["--model.prior.num_categories", "1"], ["num_categories=1", ">= 2"]),
        (["--model.prior.num_categories", "many"], ["model.prior.num_categories=many", "int"]),
        (["--model.phases.reconstruction.lr", "-1"], ["ReconstructionPhase.lr=-1.0", "allowed are values > 0"]),
        (["--model.phases.generator.betas", "[0.5,1.5]"], ["GeneratorPhase.betas=[0.5, 1.5]", "[0, 1)"]),
        (["--model.phases.reconstruction.lr", "fast"], ["fast", "float"]),
        (["--model.phases.reconstruction.schedule", "steep"], ["steep", "cosine"]),
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs=many", "int"]),
        (["--trainer.accelerator", "abacus"], ["abacus"]),
        (["--trainer.gradient_clip_val", "1"], ["gradient_clip_val=1 ", "model.phases.reconstruction.clip_norm"]),
        (["--trainer.accumulate_grad_batches", "2"], ["accumulate_grad_batches=2", "a larger batch_size"]),
        (["--trainer.max_step", "4"], ["trainer.max_step is unknown: did you mean max_steps?"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--colour", "red"], ["colour is unknown"]),
        (["--run_dir", "/dev/null/run"], ["run_dir=/dev/null/run", "Not a directory"]),
    ],
    ids=lambda value: " ".join(value) if value and str(value[0]).startswith("--") else "",
)
def test_unusable_arguments(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *FIT, *arguments)
    for part in expected:
        assert part in line
    assert len(line) < 300


def test_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    names = "fit, validate, test, predict, sample, complete, compare, gallery, export, report"
    assert refused(capsys, "train") == f"command=train is not usable: allowed are {names} (see pixelgan --help)"


def test_options_are_not_abbreviated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "test", "--ckpt", last(run)) == "ckpt is unknown: did you mean ckpt_path?"


@pytest.mark.parametrize("before", [True, False])
def test_a_class_is_chosen_before_its_arguments_wherever_it_stands(
    before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also as the last option, and after a file: options count more than files."""
    options = [["--model.prior.dim", "3"], ["--model.prior", "Gaussian"]]
    flags = [text for option in (options if before else options[::-1]) for text in option]
    pixelgan("fit", *flags, "--config", SMALL, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["prior"] == {"class_path": "pixelgan_lightning.priors.Gaussian", "init_args": {"dim": 3}}


def test_phases_of_a_file_and_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    """A file says which phases there are; options change one, add one, leave one out."""
    phases = {"generator": "GeneratorPhase", "reconstruction": {"class_path": "ReconstructionPhase"}}
    first = yaml_file("first.yaml", {"model": {"phases": all_phases(generator={"lr": 0.5}, agreement=None)}})
    second = yaml_file("second.yaml", {"model": {"phases": phases}})
    flags = ["--model.phases.agreement", "AgreementPhase", "--model.phases.reconstruction", "null"]
    flags += ["--model.phases.generator.betas", "[0.5, 1e-1]"]
    pixelgan("fit", "--config", first, "--config", second, *flags, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["phases"]
    assert list(printed) == ["generator", "agreement"]
    assert printed["generator"]["init_args"]["lr"] == 0.5  # of the first file: the second names the same class
    assert printed["generator"]["init_args"]["betas"] == [0.5, 0.1]


def test_what_a_class_leaves_behind_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what the new class would take, and what somebody has set."""
    with pytest.raises(SystemExit):
        pixelgan(*FIT, "--data", "MNISTDataModule", "--data.download=false", "--model.decoder", "ConvDecoder")
    assert [line for line in capsys.readouterr().err.splitlines() if "carry over" in line] == [
        "batch_size=32 of DigitsDataModule does not carry over to MNISTDataModule",
        "channels=4 of GatedPixelCNN does not carry over to ConvDecoder",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"prior": {"class_path": "Categorical", "init_args": {"many": 3}}}}, ["model.prior.many"]),
        ({"model": {"priors": 3}}, ["priors"]),
        ({"trainer": {"callbacks": [{"class_path": "Nope"}]}}, ["trainer.callbacks", "Nope", "SampleGrid"]),
        (
            {"trainer": {"callbacks": [{"class_path": "SampleGrid", "init_args": {"rows": 3}}]}},
            ["trainer.callbacks", "rows"],
        ),
        (
            {"trainer": {"callbacks": [{"class_path": "SampleGrid", "init_args": {"columns": 0}}]}},
            ["columns=0", "allowed are integers >= 1"],
        ),
        ({"ckpt_path": "last.ckpt"}, ["ckpt_path", "command line"]),
        ("model: [", ["config=bad.yaml", "parsing", "line 1"]),
    ],
)
def test_unusable_configurations(content: Any, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    line = refused(capsys, *FIT, "--config", "bad.yaml")
    for part in expected:
        assert part in line
    assert len(line) < 400


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    pixelgan(*arguments)
    return capsys.readouterr().out


def test_the_first_page_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, "--help")
    assert sorted(line.split()[0] for line in page.splitlines() if line.startswith("  ")) == sorted(
        [*trainer.COMMANDS, *commands.COMMANDS]
    )


@pytest.mark.parametrize("command", trainer.COMMANDS)
def test_the_page_of_a_command_is_short(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's options, the trainer's behind a word; no line is cut in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    page = shown(capsys, command, "--help")
    assert page.startswith(f"usage: pixelgan {command}")
    assert len(page.splitlines()) < 110
    assert max(map(len, page.splitlines())) <= 80
    for option in ("--run_dir", "--ckpt_path", "--init_from", "--config", "--model.phases.NAME", "--data CLASS"):
        assert option in page
    assert ("--images" in page) == (command == "predict")
    assert "--trainer.inference_mode" not in page


def test_pages_of_the_trainer_and_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, "fit", "--help", "trainer")
    assert all(f"--trainer.{name} " in page for name in inspect.signature(pl.Trainer).parameters)
    page = shown(capsys, "fit", "--help", "GeneratorPhase")
    assert all(f"  {name} " in page for name in ("alone", "lr", "betas", "schedule"))
    assert "num_val" in shown(capsys, "fit", "--help", "MNISTDataModule")
    assert "every_n_epochs" in shown(capsys, "fit", "--help", "SampleGrid")
    assert "flush_logs" in shown(capsys, "fit", "--help", "CSVLogger")
    assert refused(capsys, "fit", "--help", "Nope").startswith("help=Nope is not usable: allowed are trainer, and")


@pytest.mark.parametrize("arguments", [[], ["train"], ["--colour"]])
def test_unusable_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "fit" in refused(capsys, *arguments)


def test_image_values_that_the_likelihood_does_not_have(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pixelgan_lightning.datamodules.loaders.to_unit_interval", lambda images, levels: images.float()
    )
    line = refused(capsys, *FIT)
    assert line.startswith("image value ")
    assert "levels=17 allows {0, 1} and the multiples of 1/16 between" in line


def test_missing_files_of_mnist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mnist = [*FIT, *BERNOULLI, "--data", "MNISTDataModule", "--data.data_dir", "nowhere"]
    expected = "data_dir='nowhere' lacks train-images-idx3-ubyte"
    line = refused(capsys, *mnist, "--data.download", "false")
    assert expected in line
    assert "download=False" in line

    def download(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr("pixelgan_lightning.datamodules.mnist.fetch", download)
    line = refused(capsys, *mnist)
    assert expected in line
    assert "the download failed: no route to host" in line


# ------------------------------------------------------------------------------------------------------ whole process


def test_a_refusal_as_seen_in_a_terminal(tmp_path: Path) -> None:
    config = CONFIGS / "digits_clustering.yaml"
    process = pixelgan_process("fit", "--config", config, "--model.prior.size", "3", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: model.prior.size is unknown: Categorical has num_categories\n"


def test_a_short_name_that_another_package_has_too_is_ours() -> None:
    class MNISTDataModule(pl.LightningDataModule):
        """lightning-bolts has one."""

    class Stripes(pl.LightningDataModule):
        """Of a user."""

    assert find("MNISTDataModule", pl.LightningDataModule, "data") is datamodules.MNISTDataModule
    assert find("Stripes", pl.LightningDataModule, "data") is Stripes


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by ``python -m pixelgan_lightning``."""
    monkeypatch.setattr(sys, "argv", ["pixelgan", "--version"])
    runpy.run_module("pixelgan_lightning", run_name="__main__")
    assert capsys.readouterr().out == f"{__version__}\n"
