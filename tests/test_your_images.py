"""The page "your own images" runs from top to bottom, with two epochs for each training."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from commandline import pixelgan

PAGE = Path(__file__).parents[1] / "docs" / "your_images.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "python", "sh", "python"]
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            program, *args = shlex.split(re.sub(r"--trainer\.max_epochs \d+", "--trainer.max_epochs 2", line))
            assert program == "pixelgan"
            pixelgan(*args)
    assert re.search(r"^\d+ of 600 pictures in their class$", capsys.readouterr().out, flags=re.MULTILINE)
    with Path("labels.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file) if row["label"]]
    assert sorted(labels) == sorted(str(digit) for digit in range(10) for _ in range(2))
    with Path("named.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= {str(digit) for digit in range(10)}
    assert {row["file"] for row in rows} == {f"{i:03d}.png" for i in range(600)}
    gallery = Path("runs/pictures/gallery.html").read_text()
    assert "<h1>600 images in " in gallery
    assert "<h1>" in Path("both.html").read_text()
    assert Path("runs/pictures/report.html").is_file()
