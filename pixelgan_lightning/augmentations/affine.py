"""Random affine views."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.augmentations.base import Augmentation
from pixelgan_lightning.errors import ConfigurationError

Outside = Literal["zeros", "border"]


class RandomAffine(Augmentation):
    """Rotation, scale, shear and translation of each image, each uniform in a symmetric range, bilinear.

    The defaults suit digits: they change slant, width and place, and turn no digit into another.

    Args:
        degrees: rotation up to this many degrees either way.
        scale: height and width are each multiplied by ``exp(u)``, ``|u| <= scale``.
        shear: horizontal shift per vertical unit, up to this factor either way.
        translate: shift up to this share of the image's side, horizontally and vertically.
        outside: what comes into sight beyond the image: ``"zeros"`` (black) or ``"border"``, its nearest pixel.

    Raises:
        ConfigurationError: a negative range, or an unknown ``outside``.
    """

    num_draws = 6

    def __init__(
        self,
        degrees: float = 17.0,
        scale: float = 0.2,
        shear: float = 0.35,
        translate: float = 0.09,
        outside: Outside = "zeros",
    ) -> None:
        super().__init__()
        for name, value in {"degrees": degrees, "scale": scale, "shear": shear, "translate": translate}.items():
            if not value >= 0:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are values >= 0")
        if outside not in get_args(Outside):
            raise ConfigurationError(f"outside={outside!r} is unknown: allowed are {', '.join(get_args(Outside))}")
        self.outside = outside
        radians = degrees * torch.pi / 180
        # affine_grid's coordinates run from -1 to 1: a side has length 2.
        self.ranges = (radians, scale, scale, shear, 2 * translate, 2 * translate)

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        # By numbers of Python: a tensor of them would have to be copied to the device, which waits.
        columns = (2 * draws - 1).unbind(1)
        angle, log_sx, log_sy, shear, tx, ty = (u * r for u, r in zip(columns, self.ranges, strict=True))
        cos, sin, sx, sy = angle.cos(), angle.sin(), log_sx.exp(), log_sy.exp()
        tall = x.shape[2] / x.shape[3]  # affine_grid's units are half a width and half a height, not a pixel
        # The inverse map, from places in the view to places in the image: rotation @ scale @ shear, then translation.
        rows = [
            torch.stack([cos * sx, (shear * cos * sx - sin * sy) * tall, tx], 1),
            torch.stack([sin * sx / tall, shear * sin * sx + cos * sy, ty], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1).to(x), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode=self.outside, align_corners=False)
