"""A mixture of two-dimensional Gaussians around a circle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.random import normal_from_uniform


class GaussianMixture(Prior):
    """Equally likely Gaussians in the plane, petals around the origin (Makhzani et al., 2015, fig. 4).

    The mean of component ``i`` lies at distance ``radius`` from the origin, in direction ``2 pi i / num_components``;
    the standard deviation is ``radial_std`` along this direction and ``tangential_std`` across it.

    Args:
        num_components: number of Gaussians; for label-aware training that of the classes.
        radius: distance of the means from the origin.
        radial_std: standard deviation away from the origin.
        tangential_std: standard deviation across.

    Raises:
        ConfigurationError: numbers out of range.
    """

    code_dim = 2
    num_draws = 3
    num_components: int

    def __init__(
        self, num_components: int = 10, radius: float = 2.0, radial_std: float = 0.5, tangential_std: float = 0.1
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ConfigurationError(f"num_components={num_components} is not usable: allowed are numbers >= 1")
        for name, value in {"radius": radius, "radial_std": radial_std, "tangential_std": tangential_std}.items():
            if not value > 0:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are values > 0")
        self.num_components, self.radius = num_components, radius
        self.radial_std, self.tangential_std = radial_std, tangential_std

    def from_draws(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        component = (draws[:, 0].double() * self.num_components).long()
        u, v = normal_from_uniform(draws[:, 1:]).unbind(1)
        radial, across = self.radius + self.radial_std * u, self.tangential_std * v
        angle = (2 * math.pi / self.num_components) * component.float()
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([radial * cos - across * sin, radial * sin + across * cos], 1).float(), component

    def log_prob(self, z: Tensor) -> Tensor:
        angle = (2 * math.pi / self.num_components) * torch.arange(self.num_components).to(z)
        cos, sin = angle.cos(), angle.sin()
        radial = z[:, :1] * cos + z[:, 1:] * sin - self.radius  # [B, components]
        across = z[:, 1:] * cos - z[:, :1] * sin
        exponent = -0.5 * ((radial / self.radial_std).square() + (across / self.tangential_std).square())
        norm = math.log(2 * math.pi * self.radial_std * self.tangential_std * self.num_components)
        return (exponent - norm).logsumexp(1)
