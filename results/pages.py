"""Write the tables of results into the pages: ``make results``.

A row is a folder below ``results/`` with an ``about.yaml``; its runs are ``seed*/results.json`` in it, or its own
``results.json``. A page asks for a table between two comments::

    <!-- table mnist_clustering: title, phases, seeds, error, minutes -->
    <!-- end -->

and gets the rows whose ``about.yaml`` names that table, in the order that it says. ``notes NAME`` writes what the rows
show and what failed, ``commands NAME`` how to run them. So a new row needs no edit of a page. ``about.yaml`` has

- ``tables``: name of a table -> place in it (a number);
- ``title`` (in its table) and ``experiment`` (in a table of several experiments): text;
- ``configuration`` (a file or a list) and ``options``: the command;
- ``phases``, ``machine``, ``minutes`` (a run), ``published``, and what else a table shows in a column of its name;
- ``shows``, ``failed``, ``notes``: sentences.

``python results/pages.py --check`` writes nothing and fails where a page and the files disagree.
"""

from __future__ import annotations

import csv
import functools
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- (table|notes|commands) (\w+)(?:: ([^>]*?))? -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
SENTENCES = ("shows", "failed", "notes")
REQUIRED = ("tables", "title")


@dataclass(frozen=True)
class Run:
    """What one seed left: the numbers of its test, and those of its validations by the epochs before them."""

    seed: int
    test: dict[str, float]
    validations: dict[int, dict[str, float]]

    @property
    def all(self) -> dict[str, float]:
        """The numbers of the test and of the last validation."""
        return self.test | (self.validations[max(self.validations)] if self.validations else {})


@dataclass(frozen=True)
class Metric:
    """A column of measured numbers: the first of ``keys`` that the runs have, made a figure by ``figure``."""

    header: str
    keys: tuple[str, ...]
    figure: Callable[[float], float] = lambda value: value
    digits: int = 2
    stderr: str | None = None  # the standard error over images that one run has

    def values(self, row: Row) -> list[float]:
        for key in self.keys:
            if values := [run.all[key] for run in row.runs if key in run.all]:
                return [self.figure(value) for value in values]
        return []

    def cell(self, row: Row) -> str:
        values = self.values(row)
        if not values:
            return "–"
        text = f"{statistics.mean(values):.{self.digits}f}"
        if len(values) > 1:
            spread = statistics.stdev(values)
            digits = min(self.digits, 1) if spread >= 0.95 else self.digits
            text = f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"
        elif self.stderr and self.stderr in row.runs[0].all:
            text += f" (± {abs(self.figure(row.runs[0].all[self.stderr])):.{self.digits}f})"
        return text if len(values) == len(row.runs) else f"{text} ({len(values)} of {len(row.runs)})"


def percent_wrong(accuracy: float) -> float:
    return 100 * (1 - accuracy)


def error(header: str, *keys: str) -> Metric:
    return Metric(header, keys, percent_wrong)


def nats(header: str, name: str, sign: int = 1) -> Metric:
    return Metric(header, (f"test/{name}",), lambda value: sign * value, stderr=f"test/{name}_stderr")


METRICS = {
    "validation": error("validation error, %", "val/accuracy", "val/cluster_accuracy"),
    "error": error("test error, %", "test/accuracy", "test/cluster_accuracy"),
    "by majority": error("by majority, %", "test/cluster_accuracy_majority"),
    "by views": error("by views, %", "test/accuracy_views", "test/cluster_accuracy_views"),
    "by Bayes": error("`p(k\\|x)`, %", "test/bayes_cluster_accuracy"),
    "one to one": error("one to one, %", "test/cluster_accuracy_hungarian"),
    "NMI": Metric("NMI", ("test/nmi",), digits=3),
    "ARI": Metric("ARI", ("test/ari",), digits=3),
    "used": Metric("categories used", ("test/categories_used",), digits=1),
    "nats": nats("exact `-log p(x)`, nats", "log_prob", -1),
    "bits": Metric("bits/dim", ("test/bits_per_dim",), digits=4),
    "reconstruction": nats("`-log p(x\\|z)`, nats", "reconstruction"),
    "one-hot reconstruction": nats("given the one-hot code", "reconstruction_one_hot"),
    "entropy": nats("entropy of `q(y\\|x)`, nats", "code_entropy"),
    "KL": Metric("KL of all codes to the prior, nats", ("test/marginal_kl",), digits=3),
    "information": nats("mutual information, nats", "mutual_information"),
    "rate": nats("rate, nats", "information/rate"),
    "distortion": nats("distortion, nats", "information/distortion"),
    "gap": nats("gap, nats", "information/posterior_gap"),
    "least information": nats("mutual information, at least", "information/mutual_information_lower"),
    "most information": nats("at most", "information/mutual_information_upper"),
    "most KL": nats("KL to the prior, at most", "information/marginal_kl_upper"),
    "bound": nats("bound on `-log p(x)`, nats", "information/log_prob_lower", -1),
}


@dataclass(frozen=True)
class Row:
    """A folder with an ``about.yaml`` and its runs, in the order of their seeds."""

    folder: Path
    about: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return self.folder.relative_to(ROOT / "results").as_posix()

    @property
    def command(self) -> str:
        configurations = self.about["configuration"]
        if isinstance(configurations, str):
            configurations = [configurations]
        parts = ["pixelgan fit", *(f"--config {name}" for name in configurations), self.about.get("options", "")]
        seed = "$seed" if len(self.runs) > 1 else str(self.runs[0].seed)
        folder = self.name.replace("/", "-") + ("-$seed" if len(self.runs) > 1 else "")
        parts += [f"--seed_everything {seed}", f"--run_dir runs/{folder}"]
        return " ".join(part for part in parts if part).replace("$seed", seed)

    def cell(self, column: str) -> str:
        if column in METRICS:
            return METRICS[column].cell(self)
        if column.endswith(" by seed"):
            values = METRICS[column.removesuffix(" by seed")].values(self)
            return ", ".join(f"{value:.2f}" for value in values) or "–"
        if column == "best":
            validation = METRICS["validation"].values(self)
            if len(validation) < len(self.runs):  # stopped before
                return "–"
            best = [run for run, value in zip(self.runs, validation, strict=True) if value == min(validation)]
            wrong = METRICS["error"].values(replace(self, runs=tuple(best)))
            return ", ".join(f"{value:.2f} (seed {run.seed})" for run, value in zip(best, wrong, strict=True))
        if match := re.fullmatch(r"after (\d+) epochs", column):
            then = [Run(run.seed, {}, {0: run.validations[int(match[1])]}) for run in self.runs]
            wrong = METRICS["validation"].values(replace(self, runs=tuple(then)))
            return f"{statistics.mean(wrong):.2f} ({min(wrong):.2f} to {max(wrong):.2f})"
        if column == "seeds":
            return str(len(self.runs))
        if column == "logs":
            return f"`results/{self.name}`"
        return str(self.about.get(column, "–"))


def runs_of(folder: Path) -> Iterator[Run]:
    """The runs that lie in ``folder``: one for each ``seed*/results.json``, or the one of its own ``results.json``."""
    files = sorted(folder.glob("seed*/results.json"), key=lambda file: int(file.parent.name.removeprefix("seed")))
    for file in files or folder.glob("results.json"):
        validations: dict[int, dict[str, float]] = {}
        for row in (row for log in file.parent.glob("metrics*.csv") for row in csv.DictReader(log.open())):
            if numbers := {key: float(value) for key, value in row.items() if key.startswith("val/") and value}:
                validations.setdefault(int(row["epoch"]) + 1, {}).update(numbers)
        if files:
            seed = int(file.parent.name.removeprefix("seed"))
        else:
            (text,) = re.findall(r"^seed_everything: (\d+)$", (folder / "config.yaml").read_text(), re.MULTILINE)
            seed = int(text)
        yield Run(seed, json.loads(file.read_text()), validations)


@functools.cache
def read_rows() -> tuple[Row, ...]:
    rows = []
    for file in sorted((ROOT / "results").rglob("about.yaml")):
        about = yaml.safe_load(file.read_text())
        name = file.relative_to(ROOT)
        for key in REQUIRED:
            if key not in about:
                raise SystemExit(f"{name} lacks {key!r}")
        runs = tuple(runs_of(file.parent))
        if not runs:
            raise SystemExit(f"{name} stands beside no seed*/results.json and no results.json")
        rows.append(Row(file.parent, about, runs))
    return tuple(rows)


def rows_of(table: str) -> list[Row]:
    rows = [row for row in read_rows() if table in row.about["tables"]]
    if not rows:
        raise SystemExit(f"no results/*/about.yaml names the table {table!r}")
    return sorted(rows, key=lambda row: (row.about["tables"][table], row.name))


def header(column: str) -> str:
    if column in METRICS:
        return METRICS[column].header
    if column.endswith(" by seed"):
        return "by seed"
    return {
        "title": "run",
        "minutes": "minutes a run",
        "published": "published, %",
        "best": "best on validation, %",
    }.get(column, column)


def write_table(name: str, columns: list[str]) -> str:
    lines = ["| " + " | ".join(header(column) for column in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.cell(column) for column in columns) + " |" for row in rows_of(name)]
    return "\n".join(lines)


def write_notes(name: str) -> str:
    lines = []
    for row in rows_of(name):
        texts = [" ".join(str(row.about[key]).split()) for key in SENTENCES if key in row.about]
        if texts:
            lines.append(f"- **{row.about['title']}**: {' '.join(texts)}")
    return "\n".join(lines)


def write_commands(name: str) -> str:
    lines = ["```sh"]
    for row in rows_of(name):
        if "configuration" in row.about:
            seeds = ", ".join(str(run.seed) for run in row.runs)
            lines.append(f"{row.command}  # {row.about['title']}" + (f"; seed {seeds}" if len(row.runs) > 1 else ""))
    return "\n".join([*lines, "```"])


def filled(text: str) -> str:
    """The text of a page with what its marks ask for between them."""

    def fill(match: re.Match[str]) -> str:
        opening, kind, name, columns, closing = match.groups()
        if kind == "table":
            body = write_table(name, [column.strip() for column in (columns or "").split(",")])
        else:
            body = {"notes": write_notes, "commands": write_commands}[kind](name)
        return f"{opening}{body}\n{closing}"

    return MARKED.sub(fill, text)


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tables_shown() -> set[str]:
    """The tables that some page asks for."""
    return {match[3] for page in pages() for match in MARKED.finditer(page.read_text()) if match[2] == "table"}


def main(check: bool) -> int:
    for row in read_rows():
        if unknown := set(row.about["tables"]) - tables_shown():
            raise SystemExit(f"{row.name}/about.yaml: no page shows {sorted(unknown)}, only {sorted(tables_shown())}")
    stale = [page for page in pages() if filled(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)} {'differs from results/: make results' if check else 'written'}")
        if not check:
            page.write_text(filled(page.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
