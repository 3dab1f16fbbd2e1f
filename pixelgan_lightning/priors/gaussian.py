"""The standard Gaussian prior: its code holds what is global in an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.random import normal_from_uniform


class Gaussian(Prior):
    """``N(0, I)`` in ``dim`` dimensions (PixelGAN autoencoders, section 2.1).

    Args:
        dim: length of the code.

    Raises:
        ConfigurationError: ``dim`` below 1.
    """

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        if dim < 1:
            raise ConfigurationError(f"dim={dim} is not usable: a Gaussian prior needs dim >= 1")
        self.code_dim = self.num_draws = dim

    def from_draws(self, draws: Tensor) -> tuple[Tensor, None]:
        return normal_from_uniform(draws), None

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def manifold(self, side: int) -> Tensor | None:
        if self.code_dim != 2:
            return None
        quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float()
        # The second coordinate grows upwards, as in a scatter plot of the codes.
        return torch.cartesian_prod(-quantiles, quantiles).flip(1)
