"""Codes as points of a plane, to be looked at one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pixelgan_lightning.pages.html import colour, data

MAX_POINTS = 2000
SIDE = 560
NAME = 18
"""So many letters of a category's name fit beside the circle."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True)
class Layout:
    """Where points lie.

    Attributes:
        points: ``[N, 2]``.
        centres: ``[K, 2]``, where the categories lie; empty where there are none.
        words: how the picture is to be read.
    """

    points: np.ndarray
    centres: np.ndarray
    words: str


def layout(code: np.ndarray, probabilities: np.ndarray | None, order: Sequence[int] | None = None) -> Layout:
    """A plane for codes.

    Categories lie on a circle. An image lies at the mean of their places, weighted by ``q(y|x)``; images of one
    category are spread over a disc around that, the surest in the middle, so that all are seen. Other codes of two
    numbers are drawn as they are, of more numbers along their two principal directions.

    Args:
        code: ``[N, D]``.
        probabilities: ``[N, K]``, or None for a code without categories.
        order: the categories along the circle.
    """
    if probabilities is not None:
        return _wheel(probabilities, list(order) if order is not None else list(range(probabilities.shape[1])))
    none = np.zeros((0, 2))
    if code.shape[1] == 2:
        return Layout(code, none, "The two numbers of the code.")
    centred = code - code.mean(0) if len(code) else code
    if code.shape[1] < 2:
        return Layout(np.pad(centred, ((0, 0), (0, 2 - code.shape[1]))), none, "The number of the code.")
    _, scale, directions = np.linalg.svd(centred, full_matrices=False)
    share = (scale[:2] ** 2).sum() / max((scale**2).sum(), 1e-12)
    return Layout(
        centred @ directions[:2].T,
        none,
        f"The two principal directions of the {code.shape[1]} numbers of the code, with {share:.0%} of their variance.",
    )


def _wheel(q: np.ndarray, order: list[int]) -> Layout:
    number = q.shape[1]
    angles = np.empty(number)
    angles[order] = 2 * math.pi * np.arange(number) / number - math.pi / 2
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    category = q.argmax(1)
    largest = np.bincount(category, minlength=number).max(initial=1)
    spread = 0.85 * math.sin(math.pi / max(number, 3)) / math.sqrt(largest)  # discs do not touch
    points = q @ centres
    for k in range(number):
        members = np.flatnonzero(category == k)
        rank = np.arange(len(members))
        members = members[np.argsort(-q[members, k], kind="stable")]
        radius, angle = spread * np.sqrt(rank), GOLDEN_ANGLE * rank
        points[members] += np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    words = (
        "Each point is an image. It lies near its category on the circle, and nearer to others the less sure the model "
        "is. A point of another colour in a disc is an image in a category of another class."
    )
    return Layout(points, centres, words)


def draw(
    placed: Layout,
    groups: Sequence[str],
    notes: Sequence[str],
    centre_names: Sequence[str] = (),
    images: Sequence[str] = (),
) -> str:
    """The points as SVG, with a key of their groups; a pointer on a point shows its note.

    Args:
        placed: where they lie; of more than ``MAX_POINTS`` every n-th is drawn.
        groups: what the colour of each says; empty for unknown.
        notes: a text for each.
        centre_names: of the categories.
        images: sources of pictures to show beside the notes; empty, or one for each.
    """
    step = max(1, math.ceil(len(placed.points) / MAX_POINTS))
    kept = range(0, len(placed.points), step)
    everything = np.concatenate([placed.points, 1.2 * placed.centres]) if len(placed.points) else np.zeros((1, 2))
    low, high = everything.min(0), everything.max(0)
    centre_names = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in centre_names]
    margin = 24 + 12 * max(map(len, centre_names), default=0)  # six units a letter, on both sides
    scale = (SIDE - margin) / max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2

    def place(point: np.ndarray) -> tuple[float, float]:
        x, y = (point - middle) * scale + SIDE / 2
        return float(x), float(y if len(placed.centres) else SIDE - y)  # a circle from the top; else upwards

    names = sorted({group for group in groups if group}, key=natural)
    shades = {name: colour(number, len(names)) for number, name in enumerate(names)} | {"": "var(--quiet)"}
    parts = []
    for centre, name in zip(placed.centres, centre_names, strict=False):
        x, y = place(1.2 * centre)
        anchor = "middle" if abs(centre[0]) < 0.3 else "start" if centre[0] > 0 else "end"
        y += 4 + (8 * float(np.sign(centre[1])) if anchor == "middle" else 0)  # clear of its neighbours' names
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    radius = 3.4 if len(kept) <= 600 else 2.4
    for number, i in enumerate(kept):
        x, y = place(placed.points[i])
        group = names.index(groups[i]) if groups[i] else -1
        fill = shades[groups[i]]
        parts.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:{fill}" data-i="{number}" '
            f'data-group="{group}"/>'
        )
    shown = [*enumerate(names), *([(-1, "")] if not all(groups) else [])]
    keys = "".join(
        f'<button type="button" data-group="{number}"><i style="background:{shades[name]}"></i>'
        f"{escape(name) or 'no label'}</button>"
        for number, name in shown
    )
    content = {"notes": [notes[i] for i in kept], "images": [images[i] for i in kept] if images else []}
    left_out = f" Every {step}th image is drawn." if step > 1 else ""
    return (
        f'<figure class="plot" data-kind="points"><div class="keys">{keys}</div>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="codes of {len(kept)} images">{"".join(parts)}</svg>'
        f"<figcaption>{escape(placed.words + left_out)}</figcaption>{data(content)}</figure>"
    )


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """A key to sort names by: numbers in them in their order, ``k=2`` before ``k=10``; numbers before words."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True))
