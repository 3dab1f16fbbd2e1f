"""Options of training that Lightning or PyTorch carry out, through the command line: each does what it says."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commandline import SMALL, load_step, pixelgan, refused
from pytorch_lightning.callbacks import Timer

from pixelgan_lightning import PixelGAN

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state(run: str) -> dict[str, Any]:
    return dict(torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True))


# ----------------------------------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(
    ("min_delta", "patience", "epochs"),
    [(1e6, 1, 2), (1e6, 2, 3), (-1e6, 1, 4)],
    ids=["no validation is better", "more patience", "every validation is better"],
)
def test_early_stopping(min_delta: float, patience: int, epochs: int) -> None:
    arguments = {"monitor": "val/reconstruction", "min_delta": min_delta, "patience": patience}
    stopping = {"class_path": "EarlyStopping", "init_args": arguments}
    Path("stopping.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [stopping], "max_epochs": 4}}))
    pixelgan("fit", "--config", SMALL, "--config", "stopping.yaml", "--run_dir", "run")
    assert load_step(Path("run")) == 2 * epochs  # two batches an epoch


# ----------------------------------------------------------------------------------------------------------- max_time


def a_minute_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is what the batches take, and every one takes a minute."""
    start, step = Timer.on_fit_start, PixelGAN.training_step
    batches = 0

    def started(self: Timer, *args: Any) -> None:
        nonlocal batches
        batches = 0
        start(self, *args)

    def counted(self: PixelGAN, *args: Any) -> Any:
        nonlocal batches
        batches += 1
        return step(self, *args)

    monkeypatch.setattr(Timer, "on_fit_start", started)
    monkeypatch.setattr(PixelGAN, "training_step", counted)
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: self._offset + 60.0 * batches)


def test_a_run_in_portions_of_time_is_the_run_in_one_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time of a run is that of all its portions: two epochs of four batches."""
    fit = ["fit", "--config", SMALL, "--trainer.limit_train_batches", 4, "--trainer.max_epochs", 2]
    pixelgan(*fit, "--run_dir", "complete")
    a_minute_per_batch(monkeypatch)
    for i, minutes in enumerate([3, 6]):
        last = ["--ckpt_path", "last"] if i else []
        with pytest.raises(SystemExit) as exit_:
            pixelgan(*fit, "--run_dir", "run", *last, "--trainer.max_time", f"00:00:{minutes:02}:00")
        assert exit_.value.code == 0
        assert f"stopped at step {minutes}, the time is over; checkpoint: " in capsys.readouterr().out
        assert load_step(Path("run")) == minutes
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")  # with no time left
    assert load_step(Path("run")) == 6
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last", "--trainer.max_time", "null")
    complete, run = state("complete"), state("run")
    assert run["global_step"] == complete["global_step"] == 8
    assert run["epoch"] == complete["epoch"]
    for name, value in complete["state_dict"].items():
        assert torch.equal(run["state_dict"][name], value), name


@pytest.mark.parametrize("name", ["train/reconstruction", "val/recnstruction"])
def test_only_what_a_validation_logs_chooses_checkpoints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A number of a training step is of one batch, and another one in each process."""
    line = refused(capsys, "fit", "--config", SMALL, "--run_dir", "run", "--checkpoint.monitor", name)
    assert line.startswith(f"checkpoint.monitor='{name}' is not usable: allowed are val/")


# ----------------------------------------------------------------------------------------------------- torch.compile


def test_compiling_the_decoder_changes_neither_training_nor_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that runs what was traced as it is: that tracing is right is to be shown, not code generation."""
    fit = ["fit", "--config", SMALL]
    pixelgan(*fit, "--run_dir", "plain")
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    pixelgan(*fit, "--run_dir", "compiled", "--compile_decoder", "true")
    plain, compiled = state("plain")["state_dict"], state("compiled")["state_dict"]
    assert plain.keys() == compiled.keys()
    assert not [name for name in compiled if "_orig_mod" in name]
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
    # Each goes on where the other stopped.
    more = ["--ckpt_path", "last", "--trainer.max_epochs", 2]
    pixelgan("fit", "--run_dir", "plain", *more, "--compile_decoder", "true")
    pixelgan("fit", "--run_dir", "compiled", *more, "--compile_decoder", "false")
    assert load_step(Path("plain")) == load_step(Path("compiled")) == 4


def test_cuda_graphs_without_a_gpu_say_so_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fit = ["fit", "--config", SMALL]
    pixelgan(*fit, "--run_dir", "plain")
    pixelgan(*fit, "--run_dir", "graphs", "--cuda_graphs", "true")
    assert caplog.text.count("cuda_graphs: steps run one operation at a time, the device is cpu") == 1
    for name, value in state("plain")["state_dict"].items():
        assert torch.equal(state("graphs")["state_dict"][name], value)
