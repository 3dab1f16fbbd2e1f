"""What W&B (offline), TensorBoard and the CSV table hold after a fit, its continuation and a test."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from commandline import CONFIGS, SMALL, all_phases, pixelgan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_records import OfflineRun, offline_runs

from pixelgan_lightning.training.loggers import BEST, RunWandbLogger

SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "FAKE_TOKEN": "do-not-log-me-5f3a"}
PANELS = {
    "train/reconstruction": {1, 3},
    "train/discriminator": {1, 3},
    "train/generator": {1, 3},
    "train/agreement": {1, 3},
    "train/classification": {1, 3},
    "train/discriminator_real": {1, 3},
    "train/discriminator_fake": {1, 3},
    "val/reconstruction": {1, 3},
    "val/code_entropy": {1, 3},
    "val/categories_used": {1, 3},
    "val/bits_per_dim": {1, 3},
    "val/cluster_accuracy": {1, 3},
    "val/cluster_accuracy_majority": {1, 3},
    "val/nmi": {1, 3},
    "val/ari": {1, 3},
    "test/bits_per_dim": {4},
    "test/cluster_accuracy": {4},
}
FIGURES = {
    "images/confusion": {1, 3},
    "images/codes": {1, 3},
    "images/samples": {1, 3},
    "images/reconstructions": {1, 3},
    "images/test_confusion": {4},
    "images/test_codes": {4},
    "images/test_samples": {4},
}


@dataclass
class Finished:
    folder: Path
    runs: list[OfflineRun]  # of the fit, its continuation and the test

    def series(self, name: str) -> dict[int, Any]:
        return {step: value for run in self.runs for step, value in run.series(name).items()}

    def csv_series(self, name: str) -> dict[int, float]:
        found = {}
        for command in ("fit", "fit-1", "test"):
            with (self.folder / command / "metrics.csv").open(newline="") as file:
                found.update(
                    {int(float(row["step"])): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
                )
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("dashboards")
    loggers = yaml.safe_load((CONFIGS / "logger" / "wandb.yaml").read_text())["trainer"]["logger"]
    loggers.append({"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}})
    callbacks = [
        {"class_path": "ClusterAccuracy"},
        {"class_path": "SampleGrid", "init_args": {"columns": 1, "reconstructions": 2}},
        {"class_path": "LatentScatter", "init_args": {"max_images": 20}},
        {"class_path": "MarginalLikelihood", "init_args": {"max_images": 2, "splits": ["val", "test"]}},
    ]
    overlay = home / "overlay.yaml"
    trainer = {"logger": loggers, "callbacks": callbacks, "log_every_n_steps": 2}
    every_phase = {"augmentation": {"class_path": "RandomAffine"}, "phases": all_phases()}
    labels = {"class_path": "DigitsDataModule", "init_args": {"num_labelled": 20, "labelled_batch_size": 10}}
    overlay.write_text(yaml.safe_dump({"trainer": trainer, "model": every_phase, "data": labels}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", **SECRETS}.items():
            patch.setenv(name, value)
        stacked = ["--config", SMALL, "--config", overlay]
        last = ["--ckpt_path", "run/checkpoints/last.ckpt"]
        pixelgan("fit", *stacked, "--run_dir", "run")
        wandb.finish()
        pixelgan("fit", *stacked, *last, "--trainer.max_epochs", 2)
        wandb.finish()
        pixelgan("test", *stacked, *last)
        wandb.finish()
    return Finished(home / "run", offline_runs(home / "run"))


def test_one_wandb_run_from_the_first_fit_to_the_test(finished: Finished) -> None:
    assert len(finished.runs) == 3
    assert {run.id for run in finished.runs} == {(finished.folder / "wandb_id.txt").read_text().strip()}


@pytest.mark.parametrize(("panel", "steps"), [*PANELS.items(), *((f"{k}._type", v) for k, v in FIGURES.items())])
def test_every_panel_has_its_steps(panel: str, steps: set[int], finished: Finished) -> None:
    assert set(finished.series(panel)) == steps


@pytest.mark.parametrize("panel", PANELS)
def test_all_loggers_show_the_same_numbers(panel: str, finished: Finished) -> None:
    expected = finished.csv_series(panel)
    assert finished.series(panel) == pytest.approx(expected, rel=1e-6)
    tensorboard: dict[int, float] = {}
    for command in ("fit", "fit-1", "test"):
        events = EventAccumulator(str(finished.folder / command)).Reload()
        if panel in events.Tags()["scalars"]:
            tensorboard |= {event.step: event.value for event in events.Scalars(panel)}
    assert tensorboard == pytest.approx(expected, rel=1e-6)


def test_pictures_of_one_grid_stand_in_one_row(finished: Finished) -> None:
    rows = [row for run in finished.runs for row in run.history if "images/samples._type" in row]
    assert rows
    assert all("images/reconstructions._type" in row for row in rows)


def test_the_summary_has_best_values(finished: Finished) -> None:
    summary = finished.runs[0].summary
    for name in ("val/reconstruction", "val/cluster_accuracy", "val/bits_per_dim", "val/nmi"):
        assert summary[name][BEST[name]] == pytest.approx(finished.series(name)[1])
    assert {"test/cluster_accuracy", "test/bits_per_dim"} <= set(finished.runs[2].summary)


def test_the_configuration_is_whole(finished: Finished) -> None:
    for run in finished.runs[:2]:
        for key in ("model", "data", "trainer", "checkpoint", "seed_everything"):
            assert key in run.config
    assert finished.runs[0].config["model"]["prior"]["init_args"] == {"num_categories": 10}
    saved = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert {key: finished.runs[0].config[key] for key in saved} == saved


def test_tags(finished: Finished) -> None:
    assert finished.runs[0].tags == ["Digits", "Categorical", "20 labels"]


def test_nothing_of_the_environment_is_written(finished: Finished) -> None:
    """The environment, the command line and the machine stay here."""
    hidden = [value.encode() for value in (*SECRETS.values(), os.uname().nodename) if len(value) > 4]
    hidden.append(b"--ckpt_path")
    files = [path for path in (finished.folder / "wandb").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [value for value in hidden if value in content], path
    assert not [path for path in files if path.name in ("wandb-metadata.json", "requirements.txt", "output.log")]


def test_a_run_of_its_own_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = RunWandbLogger(save_dir=str(tmp_path), id="mine", offline=True)
    assert logger.experiment.id == "mine"
    logger.experiment.finish()
    assert not (tmp_path / "wandb_id.txt").exists()


def test_checkpoints_as_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = {"class_path": "pixelgan_lightning.training.loggers.RunWandbLogger", "init_args": {"log_model": True}}
    Path("overlay.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [logger]}}))
    pixelgan("fit", "--config", SMALL, "--config", "overlay.yaml", "--run_dir", "run")
    wandb.finish()
    (run,) = offline_runs(Path("run"))
    assert {kind for kind, _ in run.artifacts} == {"model"}
