"""What README.md and docs/your_parts.md show runs as written (with fewer epochs)."""

from __future__ import annotations

import csv
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from realformats import digit_images

from pixelgan_lightning.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OWN_PARTS = (ROOT / "docs" / "your_parts.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README + OWN_PARTS, flags=re.DOTALL)


def test_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (quick_start,) = [block for block in PYTHON if "PixelGAN(" in block]
    assert "max_epochs=20" in quick_start
    names: dict[str, object] = {}
    exec(quick_start.replace("max_epochs=20", "max_steps=3"), names)
    assert names["codes"].shape == (250, 10)  # type: ignore[attr-defined]
    assert names["log_p"].shape == (250,)  # type: ignore[attr-defined]
    assert names["images"].shape == (16, 1, 8, 8)  # type: ignore[attr-defined]


def test_own_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # what the command line adds ends with the test
    (snippet,) = [block for block in PYTHON if "class Ring" in block]
    (tmp_path / "my_priors.py").write_text(snippet)
    (command,) = re.findall(r"pixelgan (fit .*my_priors.Ring)", README)
    main([*command.split(), "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--run_dir", "run"])
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert "my_priors.Ring" in (tmp_path / "run" / "config.yaml").read_text()


def test_own_data_and_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for snippet in PYTHON:
        if name := re.match(r"# (my_(?:data|callbacks)\.py)", snippet):
            (tmp_path / name[1]).write_text(snippet)
    (command,) = re.findall(r"pixelgan (fit .*my_data.Stripes.*)", OWN_PARTS)
    main([*command.split(), "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--run_dir", "run"])
    with (tmp_path / "run" / "fit" / "metrics.csv").open() as file:
        ink = [float(row["val/ink"]) for row in csv.DictReader(file) if row["val/ink"]]
    assert len(ink) == 1
    assert 0 < ink[0] < 1


def test_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = digit_images(100, size=10)
    np.savez("mine.npz", images=images, labels=torch.where(torch.arange(100) % 3 == 0, labels, -1))
    (command,) = re.findall(r"pixelgan (fit .*mine.npz.*)", README)
    main([*command.split(), "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--run_dir", "run"])
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_targets_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(
        r"`((?:configs|datamodules|callbacks|tests|results|pixelgan_lightning)/[\w/]*(?:\.\w+)?)`", text
    ):
        assert (ROOT / name).exists(), name
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda page: page.stem)
def test_the_api_names_what_is_there(page: Path) -> None:
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), flags=re.MULTILINE):
        module, _, last = name.rpartition(".")
        try:
            assert find_spec(name), name  # looked for, not imported: the bridge to lightning-bolts changes numpy
        except ModuleNotFoundError:
            assert hasattr(import_module(module), last), name


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
