"""Running the command line in tests."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelgan_lightning.cli import main

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "configs"
SMALL = str(TESTS / "small.yaml")


def all_phases(**settings: dict[str, Any] | None) -> dict[str, Any]:
    """Every phase as a configuration describes it, with the settings of some; None leaves one out."""
    names = ("reconstruction", "discriminator", "generator", "agreement", "classification")
    return {
        name: {"class_path": f"{name.capitalize()}Phase", "init_args": settings.get(name) or {}}
        for name in names
        if settings.get(name, {}) is not None
    }


def pixelgan(*args: object) -> None:
    """Run a command in this process, as if typed."""
    main([str(arg) for arg in args])


def pixelgan_process(*args: object, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    program = [sys.executable, "-m", "pixelgan_lightning.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*program, *map(str, args)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line that a command ends in that cannot be carried out; nothing was trained before it."""
    capsys.readouterr()
    before = set(Path.cwd().rglob("*.ckpt"))
    with pytest.raises(SystemExit) as exit_:
        pixelgan(*args)
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert err.endswith(lines[0] + "\n")
    assert "Traceback" not in err
    assert set(Path.cwd().rglob("*.ckpt")) == before
    return lines[0].removeprefix("error: ")


def load_step(run: Path) -> int:
    """The number of batches that the last checkpoint of a run was trained on."""
    return int(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def metrics(table: Path, column: str) -> list[float]:
    """The values of a column of a CSV log, without gaps."""
    with table.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]
