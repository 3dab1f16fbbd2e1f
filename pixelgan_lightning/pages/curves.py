"""Curves over the training batches, as SVG inside a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from pixelgan_lightning.pages.html import colour, data
from pixelgan_lightning.pages.run import Series

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 26
POINTS = 400
"""A curve has at most so many points; of a longer one they are the means of equal parts."""


@dataclass(frozen=True)
class Panel:
    """What a panel of curves shows.

    Attributes:
        title: above it.
        unit: behind the title.
        names: of the series, as they are logged.
        low: where the vertical axis starts; None: below the smallest value.
        high: where it ends; None: above the largest value.
    """

    title: str
    unit: str
    names: Sequence[str]
    low: float | None = None
    high: float | None = None


_VALIDATION, _NATS, _TRAINING = "validation", "validation, nats per image", "training"
_SHARES = ("cluster_accuracy", "cluster_accuracy_majority", "cluster_accuracy_hungarian", "accuracy")
_INFORMATION = ("code_entropy", "aggregate_entropy", "mutual_information", "marginal_kl")

PANELS = (
    Panel("Images in a category of their class", _VALIDATION, [f"val/{name}" for name in _SHARES], 0, 1),
    Panel("Agreement with the labels, no mapping", _VALIDATION, ("val/nmi", "val/ari"), 0, 1),
    Panel("Categories used", _VALIDATION, ("val/categories_used",), 0),
    Panel("Exact likelihood", "validation, bits per dimension", ("val/bits_per_dim",)),
    Panel("Bound of the likelihood", "validation, bits per dimension", ("val/bits_per_dim_upper",)),
    Panel("Reconstruction", _NATS, ("val/reconstruction", "val/reconstruction_one_hot")),
    Panel("Code", "validation, nats", [f"val/{name}" for name in _INFORMATION], 0),
    Panel("Loss of the reconstruction", "training, nats per image", ("train/reconstruction",)),
    Panel("Losses of the adversarial phase", _TRAINING, ("train/discriminator", "train/generator"), 0),
    Panel("Probability of 'real'", _TRAINING, ("train/discriminator_real", "train/discriminator_fake"), 0, 1),
    Panel("Losses of classification and agreement", _TRAINING, ("train/classification", "train/agreement")),
)
"""The panels in their order; series that none of them names follow, each in a panel of its own."""


def panels(names: Sequence[str]) -> list[Panel]:
    """The panels for series of these names."""
    known = {name for panel in PANELS for name in panel.names}
    others = [Panel(name.partition("/")[2] or name, name.partition("/")[0], (name,)) for name in names]
    return [p for p in PANELS if set(p.names) & set(names)] + [p for p in others if not set(p.names) & known]


def draw(panel: Panel, curves: Mapping[str, Series]) -> str:
    """A panel with curves by name; empty where no curve has a finite value.

    A vertical axis without a start of its own shows what the curves do after the first tenth of the batches, where the
    first values would otherwise flatten all others; the curve then enters from above. An empty curve keeps its colour.
    """
    thinned = {name: thin(values) for name, values in curves.items()}
    thinned = {name: points for name, points in thinned.items() if points}
    if not thinned:
        return ""
    last = max(x for points in thinned.values() for x, _ in points)
    low, high = _range(panel, thinned, last)
    xticks, yticks = ticks(0, last), ticks(low, high)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x / last if last else 0.5),
            TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / (high - low)),
        )

    parts = []
    for y in yticks:
        height = place(0, y)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    for x in xticks:
        across = place(x, low)[0]
        anchor = "end" if across > WIDTH - 24 else "middle"
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{_short(x)}</text>')
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    drawn, keys, hover = [], [], []
    for name, points in thinned.items():
        shade = colour(list(curves).index(name), max(len(curves), 5))
        placed = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawn.append(f'<polyline class="curve" style="stroke:{shade}" points="{line}"/>')
        if len(placed) < 30:  # a single value would be no line
            drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" style="fill:{shade}"/>' for x, y in placed]
        keys.append(f'<span><i class="bar" style="background:{shade}"></i>{escape(name)}</span>')
        hover.append({"name": name, "points": [[x, float(f"{y:.6g}"), round(place(x, y)[0], 1)] for x, y in points]})
    inner = f'x="0" y="{TOP - 4}" width="{WIDTH}" height="{HEIGHT - TOP - BOTTOM + 8}"'
    window = f'<svg {inner} viewBox="0 {TOP - 4} {WIDTH} {HEIGHT - TOP - BOTTOM + 8}" style="overflow:hidden">'
    title = f'<p class="title">{escape(panel.title)} <span>{escape(panel.unit)}</span></p>'
    label = escape(f"{panel.title}: " + ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in thinned.items()))
    legend = f'<div class="keys">{"".join(keys) if len(keys) > 1 or len(curves) > 1 else ""}</div>'
    return (
        f'<figure class="plot" data-kind="curves">{title}{legend}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}'
        f"{window}{''.join(drawn)}</svg></svg>{data(hover)}</figure>"
    )


def thin(values: Series) -> list[tuple[float, float]]:
    """Batches and values of a curve, those alone that are finite, at most ``POINTS``."""
    finite = [(float(step), value) for step, value in values.items() if math.isfinite(value)]
    size = math.ceil(len(finite) / POINTS)
    parts = [finite[i : i + size] for i in range(0, len(finite), size)] if size > 1 else [[pair] for pair in finite]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _range(panel: Panel, curves: Mapping[str, list[tuple[float, float]]], last: float) -> tuple[float, float]:
    values = [y for points in curves.values() for _, y in points]
    late = [y for points in curves.values() for x, y in points if x >= last / 10] or values
    low, high = min(values), max(values)
    if panel.low is None and panel.high is None and high - low > 2 * (max(late) - min(late)) > 0:
        low, high = min(late), max(late)  # the first values would flatten all others
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    bottom = min(panel.low, low) if panel.low is not None else low - margin
    top = max(panel.high, high) if panel.high is not None else high + margin
    return bottom, top if top > bottom else bottom + 1.0


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, three or a few more: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    power = math.floor(math.log10(high - low))
    for step in (s * 10.0**p for p in range(power, power - 3, -1) for s in (5, 2, 1)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            return [i * step for i in range(first, last + 1)]
    return [low, high]


def _short(value: float) -> str:
    """A tick's number: 1,200 as 1.2k."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.6g}"
