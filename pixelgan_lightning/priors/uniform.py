"""The uniform prior on a box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior


class Uniform(Prior):
    """Uniform on ``[low, high]`` in each of ``dim`` dimensions.

    Args:
        dim: length of the code.
        low: lower end.
        high: upper end.

    Raises:
        ConfigurationError: ``dim`` below 1 or ``low`` not below ``high``.
    """

    def __init__(self, dim: int = 2, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise ConfigurationError(f"dim={dim} is not usable: a uniform prior needs dim >= 1")
        if not low < high:
            raise ConfigurationError(f"low={low} is not usable with high={high}: allowed are values below high")
        self.code_dim = self.num_draws = dim
        self.low, self.high = low, high

    def from_draws(self, draws: Tensor) -> tuple[Tensor, None]:
        return self._from_unit(draws), None

    def log_prob(self, z: Tensor) -> Tensor:
        """``-dim log(high - low)`` inside the box, minus infinity outside."""
        inside = ((z >= self.low) & (z <= self.high)).all(1)
        return torch.where(inside, z.new_tensor(-self.code_dim * math.log(self.high - self.low)), -torch.inf)

    def manifold(self, side: int) -> Tensor | None:
        if self.code_dim != 2:
            return None
        nodes = self._from_unit((torch.arange(side, dtype=torch.float32) + 0.5) / side)
        return torch.cartesian_prod(nodes.flip(0), nodes).flip(1)  # the second coordinate grows upwards

    def _from_unit(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u
