"""The page "your own images", as its notebook, runs from top to bottom, with two epochs for each training."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = DOCS / "notebooks" / "from_page.py"


def test_the_notebook_is_the_page() -> None:
    spec = importlib.util.spec_from_file_location("from_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    from_page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(from_page)
    assert nbformat.read(from_page.NOTEBOOK, as_version=4) == from_page.notebook(from_page.PAGE.read_text())


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(DOCS / "notebooks" / "your_images.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("pixelgan " in cell.source for cell in code) == 3
    for cell in code:
        cell.source = re.sub(r"--trainer\.max_epochs \d+", "--trainer.max_epochs 2", cell.source)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (said,) = (output for output in code[-1].outputs if output.output_type == "stream")
    assert re.fullmatch(r"\d+ of 600 pictures in their class\n", said["text"])
    with (tmp_path / "labels.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file) if row["label"]]
    assert sorted(labels) == sorted(str(digit) for digit in range(10) for _ in range(2))
    with (tmp_path / "named.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= {str(digit) for digit in range(10)}
    assert {row["file"] for row in rows} == {f"{i:03d}.png" for i in range(600)}
    assert "<h1>600 images in " in (tmp_path / "runs/pictures/gallery.html").read_text()
    assert "<h1>" in (tmp_path / "both.html").read_text()
    assert (tmp_path / "runs/pictures/report.html").is_file()
