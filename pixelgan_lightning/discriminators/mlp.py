"""A multilayer perceptron as discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

from torch import Tensor, nn

from pixelgan_lightning.discriminators.base import Discriminator
from pixelgan_lightning.errors import ConfigurationError


class MLPDiscriminator(Discriminator):
    """Fully connected layers with leaky ReLU and no normalisation.

    Args:
        widths: units of each hidden layer.
        code_noise: standard deviation of the noise on every code it sees, real and fake alike (instance noise,
            Soenderby et al., 2017). One-hot samples and softmax vectors never overlap: without noise a discriminator
            separates them at once and its gradient vanishes.
        label_aware: see labels beside codes, so that each class owns a component of the prior.
    """

    def __init__(self, widths: Sequence[int] = (256, 256), code_noise: float = 0.0, label_aware: bool = False) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ConfigurationError(f"widths={list(widths)} is not usable: allowed are numbers >= 1")
        if not code_noise >= 0:
            raise ConfigurationError(f"code_noise={code_noise} is not usable: allowed are values >= 0")
        self.widths, self.code_noise, self.label_aware = tuple(widths), code_noise, label_aware

    def build(self, code_dim: int) -> Self:
        sizes = [code_dim, *self.widths]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        return self

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).squeeze(1)
