"""Stored grey levels to model levels: quantisation and binarisation.

Data files store an image as unsigned 8-bit levels ``v`` in ``0..native-1``. What a model sees is an image with ``L``
levels, kept as 8-bit level indices in memory and handed out as float32 ``level / (L - 1)`` in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.random import Key, keyed_generator

CHUNK = 1024
"""Images handled at a time: bounds temporary memory; a part of the definition of :func:`binarise` (see there)."""


def quantise(stored: Tensor, native: int, levels: int) -> Tensor:
    """Level indices ``floor(v * levels / native)``: bins of equal width, in integer arithmetic.

    With ``levels=2`` this is a threshold: 1 where the grey value ``v / (native - 1)`` is above 0.5.

    Args:
        stored: ``[N, C, H, W]`` uint8, values in ``0..native-1``.
        native: number of levels of ``stored``, at most 256.
        levels: number of levels wanted, ``2..native``.

    Returns:
        ``[N, C, H, W]`` uint8, values in ``0..levels-1`` (``stored`` itself where nothing changes).
    """
    if levels == native:
        return stored
    table = (torch.arange(native) * levels // native).to(torch.uint8)
    return torch.cat([table[chunk.long()] for chunk in stored.split(CHUNK)])


def binarise(stored: Tensor, native: int, *key: Key) -> Tensor:
    """One Bernoulli draw per pixel, with the grey value as probability.

    The draw of an image depends on ``key`` and on its place in ``stored`` alone (images are drawn in groups of
    :data:`CHUNK`, each with a generator of its own).

    Args:
        stored: ``[N, C, H, W]`` uint8, values in ``0..native-1``.
        native: number of levels of ``stored``.
        key: what identifies the draw.

    Returns:
        ``[N, C, H, W]`` uint8, values 0 and 1.
    """
    drawn = []
    for number, chunk in enumerate(stored.split(CHUNK)):
        uniform = torch.rand(chunk.shape, generator=keyed_generator(*key, number))
        drawn.append((uniform < to_unit_interval(chunk, native)).to(torch.uint8))
    return torch.cat(drawn)


def to_unit_interval(stored: Tensor, levels: int) -> Tensor:
    """``stored / (levels - 1)``: uint8 levels ``0..levels-1`` to float32 in [0, 1], same shape."""
    return stored.float() / (levels - 1)


def nearest_level(image: Tensor, levels: int) -> Tensor:
    """The level that is nearest to each value of ``image``, as ``level / (levels - 1)``; same shape."""
    return (image.clamp(0, 1) * (levels - 1)).round() / (levels - 1)


def area_average(stored: Tensor, side: int) -> Tensor:
    """Means of squares of pixels, rounded to a level (half to even).

    Args:
        stored: ``[N, C, H, H]`` uint8; ``side`` divides H.
        side: height and width wanted.

    Returns:
        ``[N, C, side, side]`` uint8 (``stored`` itself where nothing changes).
    """
    if stored.shape[-1] == side:
        return stored
    square = stored.shape[-1] // side
    return torch.cat([F.avg_pool2d(chunk.float(), square).round().to(torch.uint8) for chunk in stored.split(CHUNK)])
