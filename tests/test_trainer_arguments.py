"""Every argument of Lightning's trainer is used, or refused with what to say instead."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from commandline import SMALL, pixelgan, refused

REFUSED = {
    "gradient_clip_val": (1.0, "clip_norm"),
    "gradient_clip_algorithm": ("norm", "clip_norm"),
    "accumulate_grad_batches": (2, "accumulate_grad_batches=2"),
    "sync_batchnorm": ("true", "BatchNorm is synchronised already"),
    "model_registry": ("here", "stay in the run's folder"),
    "barebones": ("true", "barebones"),
}
GIVEN: dict[str, Any] = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": "1",  # as text, which Lightning takes for a number: see below
    "num_nodes": 1,
    "precision": "bf16-mixed",
    "fast_dev_run": True,
    "max_epochs": 7,
    "min_epochs": 2,
    "max_steps": 9,
    "min_steps": 3,
    "max_time": "00:00:10:00",
    "limit_train_batches": 3,
    "limit_val_batches": 4,
    "limit_test_batches": 5,
    "limit_predict_batches": 6,
    "overfit_batches": 2,
    "val_check_interval": 1,
    "check_val_every_n_epoch": 3,
    "num_sanity_val_steps": 1,
    "log_every_n_steps": 2,
    "enable_checkpointing": True,
    "enable_progress_bar": True,
    "enable_model_summary": True,
    "deterministic": True,
    "benchmark": False,
    "inference_mode": False,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "detect_anomaly": True,
    "reload_dataloaders_every_n_epochs": 1,
    "enable_autolog_hparams": False,
}
CLASSES = {"logger": "CSVLogger", "callbacks": "SampleGrid", "plugins": "AtomicCheckpointIO"}
PARAMETERS = list(inspect.signature(pl.Trainer).parameters)


def test_none_is_forgotten() -> None:
    assert {*REFUSED, *GIVEN, *CLASSES, "default_root_dir"} == set(PARAMETERS)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the trainer is made with; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}
    make = pl.Trainer.__init__

    @functools.wraps(make)
    def spy(self: pl.Trainer, **kwargs: Any) -> None:
        seen.update(kwargs)
        make(self, **kwargs)

    monkeypatch.setattr(pl.Trainer, "__init__", spy)
    monkeypatch.setattr(pl.Trainer, "fit", functools.wraps(pl.Trainer.fit)(lambda *args, **kwargs: None))
    return seen


@pytest.mark.parametrize("name", GIVEN)
def test_used(name: str, arguments: dict[str, Any]) -> None:
    pixelgan("fit", "--config", SMALL, f"--trainer.{name}", GIVEN[name])
    assert arguments[name] == GIVEN[name]
    assert type(arguments[name]) is type(GIVEN[name])


def test_devices_are_counted(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[pl.Trainer] = []
    monkeypatch.setattr(pl.Trainer, "fit", functools.wraps(pl.Trainer.fit)(lambda self, *_, **__: made.append(self)))
    pixelgan("fit", "--config", SMALL, "--trainer.devices", 2)
    (trainer,) = made
    assert (trainer.num_devices, trainer.world_size) == (2, 2)


@pytest.mark.parametrize("name", CLASSES)
def test_used_class(name: str, arguments: dict[str, Any]) -> None:
    value = CLASSES[name] if name != "plugins" else "pixelgan_lightning.files.checkpoint_io.AtomicCheckpointIO"
    pixelgan("fit", "--config", SMALL, f"--trainer.{name}", value)
    found = arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
    assert [type(one).__name__ for one in found].count(CLASSES[name]) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    value, instead = REFUSED[name]
    assert instead in refused(capsys, "fit", "--config", SMALL, f"--trainer.{name}", value)


def test_runs_go_below_the_root_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixelgan("fit", "--config", SMALL, "--trainer.default_root_dir", "elsewhere")
    (run,) = Path("elsewhere").iterdir()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert [path.name for path in Path().iterdir()] == ["elsewhere"]
