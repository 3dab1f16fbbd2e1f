"""The deterministic posterior."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.priors import Prior


def require_continuous(posterior: Posterior, prior: Prior) -> None:
    """Raise unless ``prior`` is over continuous codes."""
    if prior.num_categories is not None or prior.code_dim == 0:
        raise ConfigurationError(
            f"posterior={type(posterior).__name__} does not fit prior={type(prior).__name__}: "
            "it needs a prior over continuous codes, for example Gaussian"
        )


class DeterministicPosterior(Posterior):
    """``z = f(x)``: all randomness of ``q(z)`` is that of the data (Makhzani et al., 2015)."""

    def build(self, num_features: int, prior: Prior) -> Self:
        require_continuous(self, prior)
        self.code = nn.Linear(num_features, prior.code_dim)
        return self

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.code(features)
