"""The Gaussian posterior."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.posteriors.deterministic import require_continuous
from pixelgan_lightning.priors import Prior


class GaussianPosterior(Posterior):
    """``z = mu(x) + sigma(x) * eps``, diagonal, reparameterised (Kingma and Welling, 2014).

    Args:
        initial_scale: sigma before training; small, so that the code carries information from the first step.

    Raises:
        ConfigurationError: ``initial_scale`` not above 0.
    """

    def __init__(self, initial_scale: float = 0.1) -> None:
        super().__init__()
        if not initial_scale > 0:
            raise ConfigurationError(f"initial_scale={initial_scale} is not usable: allowed are values > 0")
        self.initial_scale = initial_scale

    def build(self, num_features: int, prior: Prior) -> Self:
        require_continuous(self, prior)
        self.noise_dim = prior.code_dim
        self.mean = nn.Linear(num_features, prior.code_dim)
        self.log_scale = nn.Linear(num_features, prior.code_dim)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.constant_(self.log_scale.bias, float(Tensor([self.initial_scale]).log()))
        return self

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``mu(x)`` and ``log sigma(x)``, ``[B, code_dim]`` each."""
        return self.mean(features), self.log_scale(features)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        mean = self.mean(features)
        return mean if noise is None else mean + self.log_scale(features).exp() * noise
