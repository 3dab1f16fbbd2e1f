"""RESULTS.md, README.md and the pages of docs/ say what the files in results/ say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the tables."""
    spec = importlib.util.spec_from_file_location("result_pages", ROOT / "results" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "result_pages", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one row of two seeds, its pages written."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    table = (
        "<!-- table numbers: title, seeds, validation, error, error by seed, best, nats, machine -->\n<!-- end -->\n"
    )
    (tmp_path / "RESULTS.md").write_text(f"# Results\n\n{table}\n<!-- notes numbers -->\n<!-- end -->\n")
    (tmp_path / "README.md").write_text("<!-- commands numbers -->\n<!-- end -->\n")
    add_row(tmp_path, "row", "a row", {0: (0.96, 0.97), 1: (0.97, 0.99)})
    assert pages.main(check=False) == 0
    return tmp_path


def add_row(root: Path, name: str, title: str, accuracies: dict[int, tuple[float, float]]) -> None:
    folder = root / "results" / name
    for seed, (validation, test) in accuracies.items():
        (folder / f"seed{seed}").mkdir(parents=True)
        (folder / f"seed{seed}" / "results.json").write_text(json.dumps({"test/accuracy": test}))
        log = f"epoch,step,train/loss,val/accuracy\n0,9,1.5,\n0,9,,0.5\n1,19,,{validation}\n"
        (folder / f"seed{seed}" / "metrics.csv").write_text(log)
    about = f"title: {title}\ntables: {{numbers: 1}}\nmachine: a clock\nconfiguration: a.yaml\nshows: It works.\n"
    (folder / "about.yaml").write_text(about)


def test_pages_and_files_agree(pages: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert pages.main(check=True) == 0, capsys.readouterr().out


def test_every_result_is_in_a_table(pages: ModuleType) -> None:
    rows = {row.folder for row in pages.read_rows()}
    for file in (ROOT / "results").rglob("results.json"):
        run = file.parent.parent if file.parent.name.startswith("seed") else file.parent
        assert run in rows, f"{run.relative_to(ROOT)} has no about.yaml"


def test_configurations_of_rows_exist(pages: ModuleType) -> None:
    for row in pages.read_rows():
        for name in re.findall(r"--config (\S+)", row.command if "configuration" in row.about else ""):
            assert (ROOT / name).is_file(), f"{row.name}: {name}"


def test_what_a_table_says(small: Path) -> None:
    written = (small / "RESULTS.md").read_text()
    row = "| a row | 2 | 3.50 ± 0.71 | 2.0 ± 1.4 | 3.00, 1.00 | 1.00 (seed 1) | – | a clock |"
    assert row in written.splitlines()  # a deviation of a point or more has one digit
    assert "- **a row**: It works." in written
    command = "pixelgan fit --config a.yaml --seed_everything $seed --run_dir runs/row-$seed  # a row; seed 0, 1"
    assert command in (small / "README.md").read_text()


def test_a_new_row_needs_an_about_file_alone(pages: ModuleType, small: Path) -> None:
    add_row(small, "group/new", "another", {3: (0.5, 0.75)})
    pages.read_rows.cache_clear()
    assert pages.main(check=True) == 1  # the pages are behind
    assert pages.main(check=False) == 0
    assert (
        "| another | 1 | 50.00 | 25.00 | 25.00 | 25.00 (seed 3) | – | a clock |" in (small / "RESULTS.md").read_text()
    )
    assert pages.main(check=True) == 0


def test_a_changed_number_is_found(pages: ModuleType, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = small / "RESULTS.md"
    page.write_text(page.read_text().replace("3.50 ± 0.71", "3.40 ± 0.71"))
    assert pages.main(check=True) == 1
    assert "RESULTS.md differs from results/" in capsys.readouterr().out


def test_a_table_that_no_page_shows_is_named(pages: ModuleType, small: Path) -> None:
    about = small / "results" / "row" / "about.yaml"
    about.write_text(about.read_text().replace("numbers", "nombers"))
    pages.read_rows.cache_clear()
    with pytest.raises(SystemExit, match=r"row/about.yaml: no page shows \['nombers'\], only \['numbers'\]"):
        pages.main(check=False)
