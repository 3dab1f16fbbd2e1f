"""The swiss roll: a curve in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.random import normal_from_uniform


class SwissRoll(Prior):
    """A spiral in the plane, uniform along its length, with Gaussian noise around it (Makhzani et al., 2015, fig. 4).

    The point at angle ``t`` is ``radius * (t / t_max) * (cos t, sin t)``, ``t`` up to ``t_max = 2 pi turns``. It has no
    density in closed form, without noise none at all: ``log_prob`` is not available. With ``num_components`` the
    length is cut into as many equal pieces, the components of label-aware training.

    Args:
        turns: how often the spiral goes around.
        radius: distance of its end from the origin.
        noise: standard deviation of the noise in both coordinates.
        num_components: number of pieces.

    Raises:
        ConfigurationError: numbers out of range.
    """

    code_dim = 2
    num_draws = 3
    num_components: int

    def __init__(self, turns: float = 1.5, radius: float = 2.5, noise: float = 0.05, num_components: int = 10) -> None:
        super().__init__()
        for name, value in {"turns": turns, "radius": radius}.items():
            if not value > 0:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are values > 0")
        if not noise >= 0:
            raise ConfigurationError(f"noise={noise} is not usable: allowed are values >= 0")
        if num_components < 1:
            raise ConfigurationError(f"num_components={num_components} is not usable: allowed are numbers >= 1")
        self.t_max, self.radius, self.noise, self.num_components = 2 * math.pi * turns, radius, noise, num_components

    def from_draws(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        share, noise = draws[:, 0], self.noise * normal_from_uniform(draws[:, 1:])
        component = (share * self.num_components).long().clamp(max=self.num_components - 1)
        t = self._angle(share)
        points = (self.radius / self.t_max) * t[:, None] * torch.stack([t.cos(), t.sin()], 1)
        return points.float() + noise, component

    def _angle(self, share: Tensor) -> Tensor:
        """The angle up to which ``share`` of the length lies: the inverse of the arc length, by Newton's method."""

        def length(t: Tensor) -> Tensor:
            root = (1 + t.square()).sqrt()
            return 0.5 * (t * root + t.asinh())

        target = share.double() * length(torch.tensor(self.t_max, dtype=torch.float64))
        t = self.t_max * share.double().sqrt()
        for _ in range(20):
            t = (t - (length(t) - target) / (1 + t.square()).sqrt()).clamp(0, self.t_max)
        return t
