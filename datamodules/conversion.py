"""Images of any depth, number of channels and size, made alike: 8-bit levels, grey or colours, squares."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.datamodules.pixels import CHUNK, area_average
from pixelgan_lightning.errors import ConfigurationError

Fit = Literal["crop", "pad"]

ValueRange = tuple[float, float]
"""The stored values that stand for black and for white."""


class Conversion(NamedTuple):
    """What a user wants images to be made into; the defaults change nothing that has 8 bits.

    Attributes:
        levels: number of levels of the result, at most 256.
        channels: 1 (grey), 3 (colours), or None for what is there.
        value_range: the stored values that stand for black and for white; None for what the type of the values says:
            False and True, 0 and 65535 for 16 bits, 0.0 and 1.0 for floating-point numbers.
        background: what lies under transparent parts and beside padded images, from 0 (black) to 1 (white).
        side: height and width of the result; None: images stay as large as they are, and are all of one size.
        fit: how an image becomes a square: its middle is cut out, or background is put on two of its sides.
    """

    levels: int = 256
    channels: int | None = None
    value_range: ValueRange | None = None
    background: float = 1.0
    side: int | None = None
    fit: Fit = "crop"

    @property
    def background_level(self) -> int:
        """:attr:`background` as a level."""
        return round(self.background * (self.levels - 1))

    def require_usable(self) -> None:
        """Refuse what cannot be done with any image.

        Raises:
            ConfigurationError: an attribute is out of its range.
        """
        allowed: dict[str, tuple[bool, str]] = {
            "native_levels": (2 <= self.levels <= 256, "2 to 256"),
            "channels": (self.channels in (None, 1, 3), "null, 1 and 3"),
            "background": (0 <= self.background <= 1, "numbers from 0 (black) to 1 (white)"),
            "side": (self.side is None or self.side >= 1, "null and 1, 2, 3, ..."),
            "fit": (self.fit in ("crop", "pad"), "crop and pad"),
            "value_range": (
                self.value_range is None or self.value_range[0] < self.value_range[1],
                "null and two numbers, black below white",
            ),
        }
        for name, (good, values) in allowed.items():
            if not good:
                seen = self.levels if name == "native_levels" else getattr(self, name)
                raise ConfigurationError(f"{name}={seen} is not usable: allowed are {values}")


def to_levels(values: np.ndarray, value_range: ValueRange, levels: int) -> np.ndarray:
    """Stored values as levels, ``round((v - black) / (white - black) * (levels - 1))``.

    Args:
        values: of any real type and shape.
        value_range: the values of black and white.
        levels: number of levels, at most 256.

    Returns:
        uint8, of the same shape.

    Raises:
        ConfigurationError: values are NaN or beyond black and white.
    """
    black, white = value_range
    levelled = np.empty(values.shape, np.uint8)
    for begin in range(0, len(values), CHUNK):
        part = values[begin : begin + CHUNK].astype(np.float64)
        if not ((part >= black) & (part <= white)).all():  # NaN is neither
            raise ConfigurationError(
                f"{seen_range(values)}: allowed are {black:g} (black) to {white:g} (white){usual_range(values)}"
            )
        levelled[begin : begin + CHUNK] = np.rint((part - black) / (white - black) * (levels - 1))
    return levelled


def seen_range(values: np.ndarray) -> str:
    """What values there are, for an error message."""
    kind = {"f": "floating-point numbers", "i": "signed integers", "u": "unsigned integers", "b": "truth values"}
    name = f"{8 * values.dtype.itemsize}-bit {kind.get(values.dtype.kind, values.dtype.name)}"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return f"{name}, NaN or infinite ones among them"
    return f"{name} from {values.min():g} to {values.max():g}"


def usual_range(values: np.ndarray) -> str:
    """The end of an error message: how to say what black and white are, by the usual range that holds all values."""
    for black, white in ((0, 1), (-1, 1), (0, 255), (0, 65535)):
        if ((values >= black) & (values <= white)).all():
            return f", and others with value_range=[{black}, {white}]"
    return ", and others with value_range=[black, white]"


def to_channels(images: Tensor, channels: int | None, background_level: int) -> Tensor:
    """Images as grey or as colours; a second or fourth channel is opacity, and lies over the background.

    Grey is ``0.299 R + 0.587 G + 0.114 B``, rounded as Pillow does it.

    Args:
        images: ``[N, C, H, W]`` uint8, C from 1 to 4; opacity is 0 to 255.
        channels: 1, 3, or None for grey where C is 1 or 2 and colours where it is 3 or 4.
        background_level: level of what is seen through transparent parts.

    Returns:
        ``[N, 1 or 3, H, W]`` uint8.
    """
    wanted = channels or (1 if images.shape[1] <= 2 else 3)
    if images.shape[1] == wanted:
        return images
    return torch.cat([_to_channels(chunk, wanted, background_level) for chunk in images.split(CHUNK)])


def _to_channels(images: Tensor, channels: int, background_level: int) -> Tensor:
    values = images.int()
    if images.shape[1] in (2, 4):
        values, opacity = values[:, :-1], values[:, -1:]
        values = (values * opacity + background_level * (255 - opacity) + 127) // 255
    if values.shape[1] == 3 and channels == 1:
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
        values = ((values * weights).sum(1, keepdim=True) + 2**15) >> 16
    return values.to(torch.uint8).expand(-1, channels, -1, -1).contiguous()


def to_square(images: Tensor, side: int, fit: Fit, background_level: int) -> Tensor:
    """Images as squares of ``side``: cut or padded in the middle, then resized.

    Where ``side`` divides the size, a pixel is the mean of a square of pixels, else the resizing is bilinear, with
    antialiasing where images get smaller.

    Args:
        images: ``[N, C, H, W]`` uint8.
        side: height and width wanted.
        fit: ``"crop"`` cuts the middle out, ``"pad"`` puts background on both sides of the shorter dimension.
        background_level: its level.

    Returns:
        ``[N, C, side, side]`` uint8 (``images`` itself where nothing changes).
    """
    height, width = images.shape[2:]
    if fit == "crop":
        size = min(height, width)
        top, left = (height - size) // 2, (width - size) // 2
        images = images[:, :, top : top + size, left : left + size]
    elif height != width:
        size = max(height, width)
        top, left = (size - height) // 2, (size - width) // 2
        images = F.pad(images, [left, size - width - left, top, size - height - top], value=background_level)
    if images.shape[-1] % side == 0:
        return area_average(images, side)
    resized = [
        F.interpolate(chunk.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        for chunk in images.split(CHUNK)
    ]
    return torch.cat([chunk.round().to(torch.uint8) for chunk in resized])
