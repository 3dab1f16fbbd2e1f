"""The posterior of no code."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.priors import Prior


class NoPosterior(Posterior):
    """The empty code of every image; has no parameters."""

    def build(self, num_features: int, prior: Prior) -> Self:
        if prior.code_dim != 0:
            raise ConfigurationError(
                f"posterior=NoPosterior does not fit prior={type(prior).__name__}: it needs NoCode"
            )
        return self

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return features[:, :0]
