"""Figures of images and matrices, drawn without pyplot and therefore without global state.

Texts are shown as they are: names of classes and runs may have a ``$``, which would begin a formula.

Images are drawn pixel by pixel: each is enlarged by a whole factor with nearest-neighbour interpolation, and a figure
has exactly as many pixels as the enlarged grid and its margins need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

_DPI = 128  # a power of two: pixels / _DPI * _DPI is exact, and images stay on the pixel grid
_TILE = 56  # pixels that an image should cover at least, so that 8x8 digits can be recognised
_GAP = 2  # pixels between neighbouring images
_PAIR_GAP = 10  # pixels between an input with its reconstruction and the next pair
_PANEL_GAP = 24  # pixels between the samples of one model and those of the next
_BACKGROUND = 140  # of 255, neither the black nor the white of a digit's background
_TEXT_HEIGHT = 22  # pixels for a line of text
_FONT_SIZE = 7  # points
_CHARACTER_WIDTH = 8  # pixels, generous for the font size


def image_rows(images: Tensor, row_labels: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """A tight grid of images with an optional label in front of each row.

    Args:
        images: ``[R, N, C, H, W]`` in [0, 1]; drawn grey for C = 1, as RGB for C = 3, else the first channel.
        row_labels: one text a row, for example ``"3  (k=12)"``.
        title: a line above the grid.
    """
    rows, columns = images.shape[:2]
    return _draw(_mosaic(_to_rgb(images), [_GAP] * (columns - 1)), rows, row_labels, title)


def reconstructions(inputs: Tensor, outputs: Tensor, title: str | None = None) -> Figure:
    """Inputs, each with its reconstruction to the right of it.

    Args:
        inputs: ``[N, C, H, W]`` in [0, 1].
        outputs: ``[N, C, H, W]`` in [0, 1], in the same order.
        title: a line above the grid.
    """
    per_row = math.ceil(math.sqrt(len(inputs)))
    rows = math.ceil(len(inputs) / per_row)
    pairs = _to_rgb(torch.stack([inputs, outputs], dim=1))
    missing = np.full((rows * per_row - len(inputs), *pairs.shape[1:]), _BACKGROUND, dtype=np.uint8)
    tiles = np.concatenate([pairs, missing]).reshape(rows, 2 * per_row, *pairs.shape[2:])
    gaps = ([_GAP, _PAIR_GAP] * per_row)[:-1]
    return _draw(_mosaic(tiles, gaps), rows, None, title)


def manifold(images: Tensor, side: int, title: str | None = None) -> Figure:
    """Images at the points of a regular grid of codes.

    Args:
        images: ``[side * side, C, H, W]`` in [0, 1], row by row from the top left.
        side: images in a row.
        title: a line above the grid.
    """
    tiles = _to_rgb(images.unflatten(0, (side, side)))
    return _draw(_mosaic(tiles, [_GAP] * (side - 1)), side, None, title)


def sheet(images: Tensor, title: str | None = None) -> Figure:
    """Images ``[N, C, H, W]`` in [0, 1] in a nearly square grid, row by row; what is left of the last row is empty."""
    per_row = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / per_row)
    tiles = _to_rgb(images)
    missing = np.full((rows * per_row - len(images), *tiles.shape[1:]), _BACKGROUND, dtype=np.uint8)
    tiles = np.concatenate([tiles, missing]).reshape(rows, per_row, *tiles.shape[1:])
    return _draw(_mosaic(tiles, [_GAP] * (per_row - 1)), rows, None, title)


def global_local(panels: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Samples of several models side by side, each under its title (PixelGAN autoencoders, figure 2).

    A PixelCNN without a code gets the strokes right and the whole wrong, an autoencoder with independent pixels the
    other way round; with a code for what is global and a PixelCNN for what is local both are right.

    Args:
        panels: of each model ``[N, C, H, W]`` in [0, 1]; N is the same square number for all, C may differ.
        titles: one for each.
    """
    side = math.isqrt(len(panels[0]))
    mosaics = [_mosaic(_to_rgb(panel.unflatten(0, (side, side))), [_GAP] * (side - 1)) for panel in panels]
    height, width = mosaics[0].shape[:2]
    column = max(width, _CHARACTER_WIDTH * max(map(len, titles)) + 4)
    step = column + _PANEL_GAP
    total_width, total_height = step * len(panels) - _PANEL_GAP, height + _TEXT_HEIGHT
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    for number, (mosaic, title) in enumerate(zip(mosaics, titles, strict=True)):
        figure.figimage(mosaic, xo=number * step, yo=0, origin="upper")
        y = (height + _TEXT_HEIGHT / 2) / total_height
        _text(figure, (number * step + 2) / total_width, y, title, "left")
    return figure


def confusion_matrix(matrix: Tensor, title: str | None = None, names: Sequence[str] | None = None) -> Figure:
    """Counts by true (row) and predicted (column) label ``[C, C]``, coloured by their share of the row.

    Args:
        matrix: the counts.
        title: a line above them.
        names: of the C classes; None for their numbers.
    """
    counts = matrix.cpu().numpy()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(2.5, 0.33 * classes + 0.7)
    figure = Figure(figsize=(size, size), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    names = list(names) if names else [str(number) for number in range(classes)]
    upright = max(map(len, names)) <= 2
    axes.set_xticks(range(classes), names, rotation=0 if upright else 90, parse_math=False)
    axes.set_yticks(range(classes), names, parse_math=False)
    axes.tick_params(length=0, labelsize=_FONT_SIZE)
    axes.set_xlabel("predicted", fontsize=_FONT_SIZE)
    axes.set_ylabel("true", fontsize=_FONT_SIZE)
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        number = str(counts[row, column])
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=_FONT_SIZE - 1.5)
    if title is not None:
        axes.set_title(title, fontsize=_FONT_SIZE, parse_math=False)
    return figure


def code_scatter(
    codes: Tensor,
    labels: Tensor,
    prior: Tensor | None = None,
    title: str | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Points of a plane coloured by label, over samples of the prior in grey.

    Args:
        codes: ``[N, 2]``.
        labels: integers ``[N]``; negative ones (unknown) are drawn black.
        prior: samples ``[M, 2]`` of the prior.
        title: a line above the axes.
        names: of the classes, by label; None for their numbers.
    """
    called = {label: names[label] if names else str(label) for label in sorted(set(labels.tolist())) if label >= 0}
    longest = max(map(len, called.values()), default=0)
    figure = Figure(figsize=(4.4 + 0.06 * max(0, longest - 7), 4.0), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=_FONT_SIZE)
    points, of = codes.detach().cpu().numpy(), labels.cpu().numpy()
    if prior is not None:
        samples = prior.detach().cpu().numpy()
        axes.scatter(samples[:, 0], samples[:, 1], s=3, color="0.8", linewidths=0, label="prior")
    for place, label in enumerate(called):
        colour = colormaps["tab10" if len(called) <= 10 else "gist_rainbow"](
            place if len(called) <= 10 else place / len(called)
        )
        axes.scatter(points[of == label, 0], points[of == label, 1], s=5, color=colour, linewidths=0, label=str(label))
    if (of < 0).any():
        axes.scatter(points[of < 0, 0], points[of < 0, 1], s=5, color="black", linewidths=0, label="unknown")
    if len(called) <= 20:
        legend = axes.legend(
            fontsize=_FONT_SIZE - 1, markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
        )
        for text in legend.get_texts():  # written now: a name may begin with an underscore, which hides a point's label
            text.set_parse_math(False)
            text.set_text({str(label): name for label, name in called.items()}.get(text.get_text(), text.get_text()))
    if title is not None:
        axes.set_title(title, fontsize=_FONT_SIZE, parse_math=False)
    return figure


def _to_rgb(images: Tensor) -> np.ndarray:
    """``[..., C, H, W]`` as an array ``[..., H, W, 3]`` of bytes, rounded to the nearest level of 256."""
    images = (images.detach().float().cpu().clamp(0.0, 1.0) * 255.0).round().byte()
    if images.shape[-3] != 3:
        images = images[..., :1, :, :].repeat_interleave(3, dim=-3)
    return images.movedim(-3, -1).numpy()


def _mosaic(tiles: np.ndarray, column_gaps: Sequence[int]) -> np.ndarray:
    """Enlarge tiles ``[R, N, H, W, 3]`` and put them in a grid, ``[height, width, 3]``, with the given gaps."""
    rows, columns = tiles.shape[:2]
    factor = max(1, math.ceil(_TILE / max(tiles.shape[2:4])))
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    height, width = tiles.shape[2:4]
    tops = [row * (height + _GAP) for row in range(rows)]
    lefts = [column * width + sum(column_gaps[:column]) for column in range(columns)]
    canvas = np.full((tops[-1] + height, lefts[-1] + width, 3), _BACKGROUND, dtype=np.uint8)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            canvas[top : top + height, left : left + width] = tiles[row, column]
    return canvas


def _draw(canvas: np.ndarray, rows: int, row_labels: Sequence[str] | None, title: str | None) -> Figure:
    """A figure that shows ``canvas`` one to one, with room for the texts."""
    height, width = canvas.shape[:2]
    left = _CHARACTER_WIDTH * max(map(len, row_labels)) + 8 if row_labels else 0
    top = _TEXT_HEIGHT if title else 0
    total_width, total_height = left + width, top + height
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(canvas, xo=left, yo=0, origin="upper")
    for row, label in enumerate(row_labels or ()):
        y = (height - (row + 0.5) * height / rows) / total_height
        _text(figure, (left - 6) / total_width, y, label, "right")
    if title:
        y = (height + _TEXT_HEIGHT / 2) / total_height
        _text(figure, (left + 2) / total_width, y, title, "left")
    return figure


def _text(figure: Figure, x: float, y: float, text: str, side: str) -> None:
    figure.text(x, y, text, ha=side, va="center", fontsize=_FONT_SIZE, parse_math=False)
