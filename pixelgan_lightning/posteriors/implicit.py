"""The implicit posterior: noise goes through the network."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.posteriors.deterministic import require_continuous
from pixelgan_lightning.priors import Prior


class ImplicitPosterior(Posterior):
    """``z = f(x, eps)``: noise enters beside the features and passes through a layer, so ``q(z|x)`` can have any shape.

    The "universal approximator posterior" of adversarial autoencoders (Makhzani et al., 2015, section 2). It has no
    density. Without noise the code is that of ``eps = 0``, which need not be the mode.

    Args:
        noise_dim: standard normal draws per image.
        width: units of the layer that mixes features and noise.

    Raises:
        ConfigurationError: numbers below 1.
    """

    def __init__(self, noise_dim: int = 16, width: int = 128) -> None:
        super().__init__()
        for name, value in {"noise_dim": noise_dim, "width": width}.items():
            if value < 1:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are numbers >= 1")
        self.noise_dim, self.width = noise_dim, width

    def build(self, num_features: int, prior: Prior) -> Self:
        require_continuous(self, prior)
        self.from_features = nn.Linear(num_features, self.width)
        self.from_noise = nn.Linear(self.noise_dim, self.width, bias=False)
        self.code = nn.Linear(self.width, prior.code_dim)
        return self

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        hidden = self.from_features(features)
        if noise is not None:
            hidden = hidden + self.from_noise(noise)
        return self.code(torch.relu(hidden))
