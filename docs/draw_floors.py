"""Draw ``docs/images/floors.png``: which folders and files import which, as they do now.

``python docs/draw_floors.py``, part of ``make docs``. An arrow that follows from two others is left out.
``tests/test_house.py`` has the table of floors, and compares the arrows of the picture with the imports.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_house import FLOORS, floors_of, imports, modules  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "floors.png"
ARROWS = "Floors"  # name of the PNG's text
COLUMN, STEP, WIDTH, HEIGHT = 2.2, 1.15, 1.5, 0.62  # of the grid and of a box, in inches
PLACES = {  # column and row, so that no arrow passes a box
    "command line": (2, 8),
    "commands": (3, 7),
    "configuration": (2, 6),
    "model": (2, 5),
    "callbacks": (3, 5),
    "pages": (4, 5),
    "bolts": (1.1, 4),
    "training": (2, 4),
    "data": (0, 3),
    "phases": (2, 3),
    "files": (3, 3),
    "autoencoder": (2, 2),
    "evaluation": (4, 2),
    "parts": (2, 1),
    "basics": (2, 0),
}
WIDE = ("parts", "basics")
# On white pages and on dark ones: the page shows through, texts stand on boxes of their own colour.
FILL = {"data": "#d3e8d0", "callbacks": "#d3e8d0", "basics": "#e4e4e7", "bolts": "#e4e4e7"}
OTHERS, TEXT, ARROW = "#cfe0f5", "#16202c", "#8894a3"

Arrows = list[tuple[str, str]]


def arrows(found: Mapping[str, set[str]]) -> Arrows:
    """Imports of floors, without those that follow from others."""
    reach: dict[str, set[str]] = {}
    for name in FLOORS:  # from the ground up
        reach[name] = found[name].union(*(reach[below] for below in found[name]))
    return [
        (name, below)
        for name in FLOORS
        for below in sorted(found[name])
        if not any(below in reach[other] for other in found[name] - {below})
    ]


def draw(drawn: Arrows) -> Figure:
    """The picture."""
    wide, high = COLUMN * (1 + max(c for c, _ in PLACES.values())), STEP * len({r for _, r in PLACES.values()})
    figure = Figure(figsize=(wide, high), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(0, high))
    axes.set_axis_off()
    centre = {name: ((c + 0.5) * COLUMN, (r + 0.5) * STEP) for name, (c, r) in PLACES.items()}
    widths = {name: wide - COLUMN + WIDTH if name in WIDE else WIDTH for name in FLOORS}

    def foot(name: str, other: str, others: list[str]) -> float:
        """Where an arrow meets a box: beside the box's other arrows."""
        if name in WIDE:
            return centre[other][0]
        x, y = centre[name]
        others = sorted(others, key=lambda o: (centre[o][0] - x) / abs(centre[o][1] - y))
        return x + WIDTH * ((others.index(other) + 1) / (len(others) + 1) - 0.5)

    for above, below in drawn:
        start = foot(above, below, [b for a, b in drawn if a == above]), centre[above][1] - HEIGHT / 2
        end = foot(below, above, [a for a, b in drawn if b == below]), centre[below][1] + HEIGHT / 2
        axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=13, color=ARROW, linewidth=1.6, shrinkA=0, shrinkB=1
            )
        )
    for name, (rooms, _) in FLOORS.items():
        x, y = centre[name]
        axes.add_patch(
            FancyBboxPatch(
                (x - widths[name] / 2, y - HEIGHT / 2),
                widths[name],
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=FILL.get(name, OTHERS),
                edgecolor="none",
            )
        )
        inside = "" if rooms == name else rooms.replace(" ", ", ")
        axes.text(x, y + (0.12 if inside else 0), name, ha="center", va="center", color=TEXT, size=12, weight="bold")
        axes.text(x, y - 0.13, inside, ha="center", va="center", color=TEXT, size=9.5)
    return figure


def drawn_arrows() -> Arrows:
    """The arrows of the picture on disk."""
    return [(above, below) for above, below in json.loads(Image.open(PICTURE).info[ARROWS])]


def main() -> None:
    """Write the picture."""
    now = arrows(floors_of(imports(modules(ROOT))))
    figure = draw(now)
    FigureCanvasAgg(figure)
    figure.savefig(PICTURE, transparent=True, metadata={ARROWS: json.dumps(now)})


if __name__ == "__main__":
    main()
