"""Several runs beside each other, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import yaml

from pixelgan_lightning.pages.curves import draw, panels
from pixelgan_lightning.pages.html import caption, page, picture, section, table
from pixelgan_lightning.pages.quantities import STDERR, quantity, shown, written
from pixelgan_lightning.pages.run import Run


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: that of its folder, with its parent's where several are called so."""
    short = [run.name for run in runs]
    return [
        name if short.count(name) == 1 else "/".join(run.folder.resolve().parts[-2:])
        for name, run in zip(short, runs, strict=True)
    ]


def missing(runs: Sequence[Run]) -> list[str]:
    """In words, what of the runs is not there."""
    return [f"{name}: {words}" for name, run in zip(names(runs), runs, strict=True) for words in run.missing]


def comparison(runs: Sequence[Run]) -> str:
    """The page of several runs, UTF-8 text."""
    called = names(runs)
    numbers = [run.numbers[0] for run in runs]
    body = [
        f'<header><p class="eyebrow">{len(runs)} runs</p><h1>{escape(_verdict(called, numbers))}</h1>'
        + "".join(
            f'<p class="meta"><b>{escape(name)}</b> {escape(run.summary)}</p>'
            for name, run in zip(called, runs, strict=True)
        )
        + "</header>",
        section("Numbers", _side_by_side(called, runs, numbers), "The best of each row is marked."),
        section("Samples", _all_samples(called, runs)),
        section(
            "Curves",
            f'<div class="curves">{_overlaid(called, runs)}</div>',
            "Over the training batches. Point at a curve for its numbers.",
        ),
        section("What differs in the configuration", _differences(called, runs)),
        "".join(f'<p class="missing">{escape(words)}</p>' for words in missing(runs)),
    ]
    return page(" · ".join(called), "\n".join(filter(None, body)))


def _verdict(called: Sequence[str], numbers: Sequence[dict[str, float]]) -> str:
    """Which run is best at what they all have."""
    parts: list[str] = []
    for group in (("accuracy",), ("cluster_accuracy",), ("bits_per_dim",)):
        name = group[0]
        if all(name in found for found in numbers) and not (name == "cluster_accuracy" and parts):
            best = _best(name, numbers)
            if best is not None:
                what = {"bits_per_dim": "needs the fewest bits"}.get(name, "has most images right")
                values = ", ".join(f"{written(name, found).partition(' ±')[0]}" for found in numbers)
                parts.append(f"{called[best]} {what} ({values})")
    text = "; ".join(parts) if parts else f"{len(called)} runs side by side"
    return f"{text}."


def _best(name: str, numbers: Sequence[dict[str, float]]) -> int | None:
    """The place of the best number, None where several are or where it depends."""
    better = quantity(name).better
    values = [found.get(name) for found in numbers]
    known = [better * value for value in values if value is not None and value == value]
    if not better or len(known) < 2 or known.count(max(known)) > 1:
        return None
    return next(i for i, value in enumerate(values) if value is not None and better * value == max(known))


def _side_by_side(called: Sequence[str], runs: Sequence[Run], numbers: Sequence[dict[str, float]]) -> str:
    rows = []
    together = {name: 0.0 for found in numbers for name in found if not name.endswith(STDERR)}
    for name in shown(together):
        best = _best(name, numbers)
        cells = [escape(written(name, found)) if name in found else "" for found in numbers]
        marked = [f"<b>{cell}</b>" if i == best else cell for i, cell in enumerate(cells)]
        rows.append((f"{escape(quantity(name).words)}<small>{escape(name)}</small>", *marked))
    heads = [
        escape(name) + ("" if run.results else "<small>last validation</small>")
        for name, run in zip(called, runs, strict=True)
    ]
    return table(("", *heads), rows) if rows else ""


def _all_samples(called: Sequence[str], runs: Sequence[Run]) -> str:
    drawn = []
    for name, run in zip(called, runs, strict=True):
        path = run.picture("samples", "manifold")
        if path is not None:
            drawn.append(picture(path, f"{name}: {caption(path)}"))
    return f'<div class="samples beside">{"".join(drawn)}</div>' if drawn else ""


def _overlaid(called: Sequence[str], runs: Sequence[Run]) -> str:
    """A panel for each series, a curve for each run."""
    drawn = []
    everything = list(dict.fromkeys(name for run in runs for name in run.series))
    for panel in panels(everything):
        for name in panel.names:
            curves = {of: run.series.get(name, {}) for of, run in zip(called, runs, strict=True)}
            if any(curves.values()):
                short = name.partition("/")[2] or name
                title = quantity(short).words.partition(";")[0] if panel.unit.startswith("validation") else short
                drawn.append(draw(replace(panel, title=title), curves))
    return "".join(drawn)


def _differences(called: Sequence[str], runs: Sequence[Run]) -> str:
    """The settings that are not the same in all runs."""
    settings = [dict(_leaves(yaml.safe_load(run.config) if run.config else {})) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found)
    rows = [
        (f"<code>{escape(key)}</code>", *(escape(found.get(key, "")) for found in settings))
        for key in keys
        if len({found.get(key) for found in settings}) > 1
    ]
    return table(("", *map(escape, called)), rows, numbers=False) if rows else ""


def _leaves(node: object, key: str = "") -> list[tuple[str, str]]:
    if isinstance(node, dict) and node:
        return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}" if key else str(name))]
    if isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        return [leaf for i, value in enumerate(node) for leaf in _leaves(value, f"{key}.{i}")]
    return [(key, str(node))]
