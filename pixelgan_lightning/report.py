"""``pixelgan report RUN_FOLDER``: everything a run has written, as one HTML page that needs no other file.

The page has no script and fetches nothing: pictures are inside it as data, curves as SVG images.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import yaml
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pixelgan_lightning.errors import ConfigurationError

Series = dict[int, float]

PANELS: Mapping[str, Sequence[str]] = {
    "Loss of the reconstruction, nats per image": ("train/reconstruction",),
    "Losses of classification and agreement": ("train/classification", "train/agreement"),
    "Losses of the adversarial phase": ("train/discriminator", "train/generator"),
    "Discriminator: probability of 'real'": ("train/discriminator_real", "train/discriminator_fake"),
    "Reconstruction, nats per image": ("val/reconstruction", "val/reconstruction_one_hot"),
    "Exact bits per dimension": ("val/bits_per_dim",),
    "Upper bound of the bits per dimension": ("val/bits_per_dim_upper",),
    "Accuracy": (
        "val/cluster_accuracy",
        "val/cluster_accuracy_majority",
        "val/cluster_accuracy_hungarian",
        "val/accuracy",
    ),
    "Agreement with the labels, no mapping": ("val/nmi", "val/ari"),
    "Code, nats": ("val/code_entropy", "val/aggregate_entropy", "val/mutual_information", "val/marginal_kl"),
    "Categories used": ("val/categories_used",),
}
"""Titles of the curves' panels and what each shows; other series follow, each in a panel of its own."""

HIDDEN = ("epoch", "step")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.grid { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; } figcaption { color: #57606a; font-size: 0.85rem; }
img { max-width: 100%; } .curve img { width: 340px; } .picture img { max-height: 480px; }
table { border-collapse: collapse; } td, th { padding: 0.15rem 1.2rem 0.15rem 0; text-align: left; }
tr { border-bottom: 1px solid #e4e7eb; }
td.number { text-align: right; font-variant-numeric: tabular-nums; padding-right: 0; }
pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; font-size: 0.8rem; }
.missing { color: #8a4600; } .quiet { color: #57606a; }
"""


@dataclass
class Run:
    """What is found in a run folder; ``missing`` says in words what is not."""

    folder: Path
    config: str = ""
    results: dict[str, float] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever of it there is.

    Raises:
        ConfigurationError: it is no folder, holds nothing of a run, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"run folder {folder} is not usable: allowed are folders of runs")
    run = Run(folder)
    config = _newest(folder.glob("config*.yaml"))
    run.config = _yaml(config) if config else ""
    results = folder / "results.json"
    if results.is_file():
        run.results = _numbers(results)
    run.series = _series(sorted(folder.glob("*/metrics.csv"), key=_age))
    run.pictures = _latest_pictures(folder / "images")
    parts = {
        "no curves: there is no metrics.csv (a CSVLogger writes it)": run.series,
        "no results: there is no results.json (pixelgan test writes it)": run.results,
        "no pictures: there is no images folder (SampleGrid, ClusterAccuracy and LatentScatter draw)": run.pictures,
        "no configuration: there is no config.yaml (pixelgan fit writes it)": run.config,
    }
    run.missing = [words for words, part in parts.items() if not part]
    if len(run.missing) == len(parts):
        raise ConfigurationError(f"run folder {folder} is not usable: allowed are folders of runs, this one holds none")
    return run


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=_age, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not usable: {error}") from error


def _yaml(path: Path) -> str:
    text = _text(path)
    try:
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not usable: {error}") from error
    return text


def _numbers(path: Path) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in json.loads(_text(path)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not usable: allowed is a JSON object of numbers ({error})") from error


def _series(tables: Sequence[Path]) -> dict[str, Series]:
    """Columns of the tables by step; a continued run writes a second table, and of equal steps the later counts."""
    series: dict[str, Series] = {}
    for table in tables:
        for row in csv.DictReader(io.StringIO(_text(table))):
            try:
                step = int(float(row["step"]))
                values = {name: float(text) for name, text in row.items() if name not in HIDDEN and text}
            except (KeyError, ValueError, TypeError) as error:
                raise ConfigurationError(f"{table} is not usable: allowed is a table of numbers ({error!r})") from error
            for name, value in values.items():
                series.setdefault(name, {})[step] = value
    return {name: dict(sorted(values.items())) for name, values in sorted(series.items())}


def _latest_pictures(folder: Path) -> list[Path]:
    """The last picture of each name."""
    latest: dict[str, Path] = {}
    for path in sorted(folder.glob("**/*.png"), key=lambda path: (path.stem, _age(path))):
        latest[re.sub(r"-step\d+$", "", path.stem)] = path
    return list(latest.values())


# ------------------------------------------------------------------------------------------------------------ the page


def render(run: Run) -> str:
    """The page, UTF-8 text."""
    sections = [
        _section("Results of the test", _results(run.results)) if run.results else "",
        _section("Pictures", _grid(_picture(path) for path in run.pictures)) if run.pictures else "",
        _section("Curves", _grid(_curves(run.series))) if run.series else "",
        _section("Configuration", f"<details><summary>all of it</summary><pre>{escape(run.config)}</pre></details>")
        if run.config
        else "",
        "".join(f'<p class="missing">{escape(words)}</p>' for words in run.missing),
    ]
    title = escape(run.folder.resolve().name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{STYLE}</style></head>\n<body><h1>{title}</h1><p class="quiet">{escape(_summary(run))}</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )


def _summary(run: Run) -> str:
    """What kind of run it is, in a line."""
    words = []
    config = yaml.safe_load(run.config) if run.config else {}
    for key in ("data", "model.prior", "model.decoder"):
        node = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and "class_path" in node:
            words.append(str(node["class_path"]).rpartition(".")[2])
    steps = [step for name, values in run.series.items() if name.startswith("train/") for step in values]
    if steps:
        words.append(f"{max(steps) + 1} batches")
    return " · ".join(words)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def _results(results: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name.removeprefix("test/"))}</td><td class="number">{value:.6g}</td></tr>'
        for name, value in results.items()
    )
    return f"<table>{rows}</table>"


def _picture(path: Path) -> str:
    caption = re.sub(r"-step0*(\d+)$", r" after \1 batches", path.stem).replace("_", " ")
    return _image(path.read_bytes(), "image/png", caption)


def _image(content: bytes, kind: str, caption: str, css: str = "picture") -> str:
    data, words = base64.b64encode(content).decode(), escape(caption, quote=True)
    source = f"data:{kind};base64,{data}"
    return f'<figure class="{css}"><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _curves(series: Mapping[str, Series]) -> Iterable[str]:
    curves = {name: values for name, values in series.items() if not name.startswith("test/")}
    panels = {title: [name for name in names if name in curves] for title, names in PANELS.items()}
    shown = {name for names in panels.values() for name in names}
    panels |= {name: [name] for name in curves if name not in shown}
    for title, names in panels.items():
        if names:
            yield _image(_plot({name: curves[name] for name in names}), "image/svg+xml", title, "curve")


def _plot(curves: Mapping[str, Series]) -> bytes:
    """An SVG file with curves over the training batches; values that are not finite leave gaps."""
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, values in curves.items():
        # A point at each value where there are few: a single one would be no line.
        marker = "." if len(values) < 30 else ""
        heights = [value if math.isfinite(value) else math.nan for value in values.values()]
        axes.plot(list(values), heights, marker=marker, linewidth=1.3, label=name.partition("/")[2] or name)
    axes.set_xlabel("training batches", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):  # the same run gives the same page
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------- the command line


def write_report(folder: Path, out: Path) -> Run:
    """Write the page of the run in ``folder`` to ``out``; whoever watches ``out`` never sees half a page.

    Raises:
        ConfigurationError: the folder holds no run, or ``out`` cannot be written.
    """
    run = read_run(folder)
    page = render(run)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, out)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigurationError(f"out={out} is not usable: {error}") from error
    return run
