"""The HTML page of a run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from commandline import SMALL, pixelgan, refused

from pixelgan_lightning import report
from pixelgan_lightning.figures import confusion_matrix

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_table(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that was continued, with something of every part."""
    folder = tmp_path / "<b>run"
    columns = ["epoch", "step", "train/reconstruction", "val/nmi", "own/number"]
    write_table(
        folder / "fit" / "metrics.csv", columns, [[0, 1, 5.0, "", 1], [0, 3, 4.0, 0.5, ""], [1, 5, 9.9, "", ""]]
    )
    write_table(folder / "fit-1" / "metrics.csv", columns, [[1, 5, 3.0, "", ""], [1, 7, "nan", 0.6, ""]])
    os.utime(folder / "fit" / "metrics.csv", (1, 1))
    (folder / "config.yaml").write_text(
        "model:\n  prior: {class_path: a.Categorical}\nnote: <script>alert(1)</script>\n"
    )
    (folder / "results.json").write_text(json.dumps({"test/nmi": 0.25, "test/<i>": 1}))
    (folder / "images").mkdir()
    for step in (3, 7):
        figure = confusion_matrix(torch.eye(step).long())
        figure.savefig(folder / "images" / f"confusion-step{step:07d}.png", dpi=figure.dpi)
    return folder


def test_parts(run: Path) -> None:
    found = report.read_run(run)
    assert found.missing == []
    assert found.results == {"test/nmi": 0.25, "test/<i>": 1.0}
    # What a continued run wrote again replaces what the killed one wrote.
    assert {step: found.series["train/reconstruction"][step] for step in (1, 3, 5)} == {1: 5.0, 3: 4.0, 5: 3.0}
    assert found.series["val/nmi"] == {3: 0.5, 7: 0.6}
    assert [path.name for path in found.pictures] == ["confusion-step0000007.png"]


def test_the_page_stands_alone_and_escapes_what_it_shows(run: Path) -> None:
    page = report.render(report.read_run(run))
    assert set(re.findall(r'(?:src|href)="(.{5})', page)) == {"data:"}
    for raw in ("<script", "<i>", "<b>"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Categorical · 8 batches" in page
    assert page.count("<img") == 4  # the confusion matrix, two known panels, one of the user's own
    assert page == report.render(report.read_run(run))


@pytest.mark.parametrize("part", ["results.json", "config.yaml", "images", "fit"])
def test_a_missing_part_is_named(part: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "fit-1")
    shutil.rmtree(run / part) if (run / part).is_dir() else (run / part).unlink()
    pixelgan("report", run)
    words = {"fit": "metrics.csv", "images": "images folder"}.get(part, part)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no ")]
    assert words in line
    assert line in (run / "report.html").read_text()


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    pixelgan("test", "--ckpt_path", "run/checkpoints/last.ckpt")
    pixelgan("report", "run", "--out", "page.html")
    assert "report: page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    assert "DigitsDataModule · Categorical · GatedPixelCNN · 2 batches" in page
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


def test_unusable(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run folder nowhere is not usable" in refused(capsys, "report", "nowhere")
    Path("empty").mkdir()
    assert "this one holds none" in refused(capsys, "report", "empty")
    assert "out=no/such/page.html is not usable" in refused(capsys, "report", run, "--out", "no/such/page.html")
    (run / "results.json").write_text("[1]")
    assert "allowed is a JSON object of numbers" in refused(capsys, "report", run)
    (run / "results.json").unlink()
    (run / "fit" / "metrics.csv").write_text("step,a\nx,1\n")
    assert "allowed is a table of numbers" in refused(capsys, "report", run)
    (run / "fit" / "metrics.csv").unlink()
    (run / "config.yaml").write_text("a: [")
    assert "config.yaml is not usable" in refused(capsys, "report", run)
    assert not (run / "report.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    """All pictures decode and have an extent; nothing is wider than the window."""
    probe = (
        "<script>window.addEventListener('load', () => { document.title = JSON.stringify({"
        "images: [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 50),"
        "fits: document.documentElement.scrollWidth <= window.innerWidth}); });</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(report.render(report.read_run(run)).replace("</body>", probe + "</body>"))
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert title is not None, shown.stderr
    assert json.loads(title[1].replace("&quot;", '"')) == {"images": [True] * 4, "fits": True}
