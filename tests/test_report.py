"""The HTML page of a run, and of several."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import SMALL, pixelgan, refused
from hypothesis import given
from hypothesis.strategies import floats

from pixelgan_lightning.errors import RunError
from pixelgan_lightning.evaluation.figures import confusion_matrix
from pixelgan_lightning.pages import scatter
from pixelgan_lightning.pages.comparison import comparison
from pixelgan_lightning.pages.curves import Panel, draw, thin, ticks
from pixelgan_lightning.pages.html import data
from pixelgan_lightning.pages.quantities import sentence, shown, written
from pixelgan_lightning.pages.report import report, write_report
from pixelgan_lightning.pages.run import read_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_table(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that was continued, with something of every part."""
    folder = tmp_path / "<b>run"
    columns = ["epoch", "step", "train/reconstruction", "val/nmi", "own/$x^"]
    write_table(
        folder / "fit" / "metrics.csv", columns, [[0, 1, 5.0, "", 1], [0, 3, 4.0, 0.5, ""], [1, 5, 9.9, "", ""]]
    )
    write_table(folder / "fit-1" / "metrics.csv", columns, [[1, 5, 3.0, "", ""], [1, 7, "nan", 0.6, ""]])
    os.utime(folder / "fit" / "metrics.csv", (1, 1))
    (folder / "config.yaml").write_text(
        "model:\n  prior: {class_path: a.Categorical}\nnote: <script>alert(1)</script>\n"
    )
    (folder / "results.json").write_text(
        json.dumps({"step": 8, "test/cluster_accuracy": 0.873, "test/categories_used": 20, "test/<i>": 1.5})
    )
    (folder / "images").mkdir()
    for step in (3, 7):
        figure = confusion_matrix(torch.eye(step).long())
        figure.savefig(folder / "images" / f"samples-step{step:07d}.png", dpi=figure.dpi)
    names = ["file", "row", "class", "class_probability", "category", "category_probability", "label"]
    rows: list[list[object]] = [
        ["<u>.png", 0, "two & a half", 0.9, 1, 0.9, "two & a half"],
        ["b.png", 1, "one", 0.8, 0, 0.6, "two & a half"],
        ["c.png", 2, "one", 1.0, 0, 1.0, ""],
    ]
    write_table(folder / "predictions" / "test.csv", names, rows)
    q = np.array([[0.1, 0.9], [0.6, 0.4], [1.0, 0.0]], dtype=np.float32)
    np.savez(folder / "predictions" / "test.npz", code=q, probabilities=q)
    return folder


def test_parts(run: Path) -> None:
    found = read_run(run)
    assert found.missing == []
    assert found.results == {"cluster_accuracy": 0.873, "categories_used": 20.0, "<i>": 1.5}
    # What a continued run wrote again replaces what the killed one wrote.
    assert {step: found.series["train/reconstruction"][step] for step in (1, 3, 5)} == {1: 5.0, 3: 4.0, 5: 3.0}
    assert found.series["val/nmi"] == {3: 0.5, 7: 0.6}
    assert {name: path.name for name, path in found.pictures.items()} == {"samples": "samples-step0000007.png"}
    assert found.batches == 8


def test_the_page_leads_with_the_sentence_that_matters(run: Path) -> None:
    page = report(read_run(run))
    assert "<h1>20 categories found, 87.3 % of test images in a category of their class.</h1>" in page
    order = [
        page.index(f"<h2>{title}</h2>") for title in ("Samples", "Confusion", "Codes of the test images", "Curves")
    ]
    assert order == sorted(order)
    assert "Categorical · no labels in training · 8 batches" in page


def test_the_page_stands_alone_and_escapes_what_it_shows(run: Path) -> None:
    page = report(read_run(run))
    assert set(re.findall(r'(?:src|href)="(.{5})', page)) == {"data:"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    for raw in ("<script>alert", "<i>\n", "<b>run", "<u>", "<i></small>", "& a half"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "two &amp; a half" in page
    assert page == report(read_run(run))


def test_texts_of_the_page_for_its_script_end_no_element() -> None:
    text = data({"a": "</script><script>alert(1)</script>", "b": [math.nan, 1.5]})
    assert text.count("<") == 2
    content = json.loads(re.sub(r"<[^>]+>", "", text))
    assert content == {"a": "</script><script>alert(1)</script>", "b": [None, 1.5]}


def test_confusion_counts_the_table(run: Path) -> None:
    page = report(read_run(run))
    matrix = re.search(r'<table class="matrix">.*?</table>', page, flags=re.DOTALL)
    assert matrix is not None
    cells = re.findall(r"<td[^>]*>(\d+)</td>", matrix[0])
    assert cells == ["0", "0", "1", "1"]  # labels: one, two; only images with a label count
    assert "1 of 2 test images are on the diagonal. Here the last validation" in page  # the test counted 87.3 %
    (run / "results.json").write_text(json.dumps({"test/cluster_accuracy": 0.5}))
    assert "on the diagonal.</p>" in report(read_run(run))


def test_what_is_said_of_samples_fits_the_code(run: Path) -> None:
    assert "A row for each category;" in report(read_run(run))
    (run / "results.json").unlink()
    with np.load(run / "predictions" / "test.npz") as found:
        code = found["code"]
    np.savez(run / "predictions" / "test.npz", code=code)
    assert "A row for each code;" in report(read_run(run))


def test_sentences() -> None:
    results = {"categories_used": 1.0, "accuracy": 0.9, "cluster_accuracy": 0.5, "bits_per_dim": 1.8349}
    assert sentence(results) == "1 category found, 90.0 % of test images given their class, 1.835 bits/dim"
    assert sentence({"bits_per_dim_upper": 2.0}) == "at most 2.000 bits/dim"
    assert sentence({}) == ""


def test_numbers_have_the_digits_of_their_error() -> None:
    results = {"log_prob": -90.45842, "log_prob_stderr": 0.64477, "nmi": 0.25, "mapping_labels": 300.0, "own": math.inf}
    assert shown(results) == ["nmi", "mapping_labels", "log_prob", "own"]
    assert [written(name, results) for name in shown(results)] == ["0.25", "300", "-90.46 ± 0.64", "inf"]


def test_round_ticks() -> None:
    assert ticks(0, 1) == [0, 0.5, 1]
    assert ticks(83, 117) == [90, 100, 110]
    assert ticks(107, 195) == [120, 140, 160, 180]
    assert ticks(0, 0) == [0]


@given(low=floats(-1e6, 1e6), extent=floats(1e-3, 1e6))
def test_an_axis_has_three_to_eight_ticks(low: float, extent: float) -> None:
    found = ticks(low, low + extent)
    assert 3 <= len(found) <= 8
    assert low - 1e-6 * extent <= found[0] < found[-1] <= low + 1.000001 * extent


def test_axes_start_where_they_should() -> None:
    loss = {step: 1000.0 if step < 3 else 100.0 - step for step in range(60)}
    drawn = draw(Panel("loss", "", ("loss",)), {"loss": loss})
    labels = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)<', drawn)]
    assert max(labels) < 200  # the first values would flatten the others
    share = draw(Panel("share", "", ("share",), 0, 1), {"share": {0: 0.4, 9: 0.5}})
    assert {">0<", ">0.5<", ">1<"} <= set(re.findall(r">[\d.]+<", share))
    assert draw(Panel("nothing", "", ("nothing",)), {"nothing": {0: math.nan}}) == ""


def test_long_curves_are_means_of_equal_parts() -> None:
    points = thin({step: float(step) for step in range(4000)} | {4000: math.inf})
    assert len(points) == 400
    assert points[0] == (4.5, 4.5)


def test_codes_lie_at_the_mean_of_their_categories() -> None:
    q = np.array([[1.0, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 1.0, 0, 0]])
    placed = scatter.layout(q, q)
    assert np.allclose(placed.points[0], placed.centres[0])  # the surest one
    assert np.allclose(placed.points[2], placed.centres[1])
    plane = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert np.array_equal(scatter.layout(plane, None).points, plane)
    line = np.outer(np.arange(5.0), [3, 0, 4])
    points = scatter.layout(line, None).points
    assert np.allclose(np.abs(np.diff(points[:, 0])), 5)  # distances along the principal direction are kept
    assert np.allclose(points[:, 1], 0, atol=1e-9)


def test_names_are_sorted_by_the_numbers_in_them() -> None:
    names = ["k=10 a", "k=10", "k=2 a", "k=2", "b", "10", "2", ""]
    assert sorted(names, key=scatter.natural) == ["", "2", "10", "b", "k=2", "k=2 a", "k=10", "k=10 a"]


def test_long_names_of_categories_stay_inside_the_picture() -> None:
    q = np.eye(20)
    names = [f"k={k} · a rather long <name>" for k in range(20)]
    drawn = scatter.draw(scatter.layout(q, q), [""] * 20, [""] * 20, names)
    found = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]*)</text>', drawn)
    assert len(found) == 20
    for x, y, anchor, name in found:
        width = 6 * len(name)
        left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
        assert 0 <= left <= left + width <= scatter.SIDE
        assert 11 <= float(y) <= scatter.SIDE
        assert name.endswith("…")


@pytest.mark.parametrize("part", ["results.json", "config.yaml", "images", "fit", "predictions"])
def test_a_missing_part_is_named(part: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "fit-1")
    shutil.rmtree(run / part) if (run / part).is_dir() else (run / part).unlink()
    pixelgan("report", run)
    words = {"fit": "metrics.csv", "images": "images folder"}.get(part, part)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no ")]
    assert words in line
    assert line in (run / "report.html").read_text()


def test_several_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "results.json").write_text(json.dumps({"test/cluster_accuracy": 0.9, "test/categories_used": 20}))
    (other / "config.yaml").write_text("model:\n  prior: {class_path: a.Gaussian}\n")
    pixelgan("report", run, other)
    page = Path("report.html").read_text()
    assert page == comparison([read_run(run), read_run(other)])
    assert "<h1>other has most images right (87.3 %, 90.0 %).</h1>" in page
    assert '<td class="number">87.3 %</td><td class="number"><b>90.0 %</b></td>' in page
    assert "<code>model.prior.class_path</code></th><td>a.Categorical</td><td>a.Gaussian</td>" in page
    assert "<b>run" not in page


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    pixelgan("test", "--ckpt_path", "run/checkpoints/last.ckpt")
    pixelgan("report", "run", "--out", "page.html")
    assert "report: page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    assert "DigitsDataModule · Categorical · GatedPixelCNN · no labels in training · 2 batches" in page
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


def test_unusable(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run folder nowhere is not usable" in refused(capsys, "report", "nowhere")
    Path("empty").mkdir()
    assert "this one holds none" in refused(capsys, "report", "empty")
    assert "out=no/such/page.html is not usable" in refused(capsys, "report", run, "--out", "no/such/page.html")
    (run / "predictions" / "test.npz").write_bytes(b"PK\x03\x04 damaged")
    assert "test.npz is not usable" in refused(capsys, "report", run)
    shutil.rmtree(run / "predictions")
    (run / "results.json").write_text("[1]")
    assert "allowed is a JSON object of numbers" in refused(capsys, "report", run)
    (run / "results.json").unlink()
    (run / "fit" / "metrics.csv").write_text("step,a\nx,1\n")
    assert "allowed is a table of numbers" in refused(capsys, "report", run)
    (run / "fit" / "metrics.csv").unlink()
    (run / "config.yaml").write_text("a: [")
    assert "config.yaml is not usable" in refused(capsys, "report", run)
    assert not (run / "report.html").exists()


def test_a_full_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"report\.html cannot be written: No space left on device$"):
        write_report([run], run / "report.html")
    assert not [path for path in run.iterdir() if "report" in path.name]


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(run: Path, tmp_path: Path, width: int) -> None:
    """All pictures decode and have an extent, nothing is wider than the window, and a pointer finds a point.

    Chromium's window has no less than 500 pixels: the narrow page is looked at in a frame.
    """
    probe = (
        "<script>window.addEventListener('load', () => {"
        "const point = document.querySelector('.point'), box = point.getBoundingClientRect();"
        "point.ownerSVGElement.dispatchEvent(new PointerEvent('pointermove',"
        " {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}));"
        "document.querySelector('.keys button').click();"
        "parent.document.title = JSON.stringify({"
        "images: [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 50),"
        "tip: [...document.querySelectorAll('.tip')].filter(t => !t.hidden).map(t => t.textContent),"
        "faded: document.querySelectorAll('.faded').length, width: window.innerWidth,"
        "fits: document.documentElement.scrollWidth <= window.innerWidth}); });</script>"
    )
    text = report(read_run(run))
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    (tmp_path / "page.html").write_text(text.replace(policy[0], "").replace("</body>", probe + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>')
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"]
    seen = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", seen.stdout)
    assert title is not None, seen.stderr
    found = json.loads(title[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    (tip,) = found.pop("tip")
    assert tip.startswith("<u>.png\nclass two & a half, 90.0 %")
    assert found == {"images": [True], "faded": 1, "width": width, "fits": True}


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome")
def test_the_policy_of_the_page_lets_its_own_script_run_and_no_other(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(report(read_run(run)).replace("</body>", "<script>document.title = 'injected'</script></body>"))
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert '<div class="tip" hidden' in seen.stdout
    assert "<title>injected" not in seen.stdout
