"""A prior that the package knows nothing of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.priors import Prior


class Ring(Prior):
    """A mixture of Gaussians on a circle, in two dimensions.

    Args:
        modes: number of Gaussians.
        radius: of the circle.
        scale: standard deviation of each Gaussian.
    """

    code_dim = 2

    def __init__(self, modes: int = 10, radius: float = 2.0, scale: float = 0.1) -> None:
        super().__init__()
        self.modes, self.radius, self.scale = modes, radius, scale

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        angle = torch.randint(self.modes, (n,), generator=generator) * (2 * math.pi / self.modes)
        centre = self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return centre + self.scale * torch.randn(n, 2, generator=generator)
