"""Posteriors side by side, for products of priors; and which posterior goes with which prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.posteriors.categorical import CategoricalPosterior
from pixelgan_lightning.posteriors.deterministic import DeterministicPosterior
from pixelgan_lightning.posteriors.none import NoPosterior
from pixelgan_lightning.priors import Prior, ProductPrior


class ProductPosterior(Posterior):
    """``q(z|x) = prod_i q_i(z_i|x)``: one posterior for each factor of a ``ProductPrior``.

    Args:
        posteriors: one for each factor, in its order; None for the default of each.

    Raises:
        ConfigurationError: another number of posteriors than factors, or a pair that does not match.
    """

    def __init__(self, posteriors: Sequence[Posterior] | None = None) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors or [])

    def build(self, num_features: int, prior: Prior) -> Self:
        if not isinstance(prior, ProductPrior):
            raise ConfigurationError(
                f"posterior=ProductPosterior does not fit prior={type(prior).__name__}: it needs a ProductPrior"
            )
        factors = prior.factors()
        if not self.posteriors:
            self.posteriors.extend(default_posterior(factor) for factor in factors)
        if len(self.posteriors) != len(factors):
            raise ConfigurationError(
                f"posteriors with {len(self.posteriors)} parts are not usable: allowed are {len(factors)}, one for "
                "each factor of the prior"
            )
        for posterior, factor in zip(self.parts(), factors, strict=True):
            posterior.build(num_features, factor)
        # Where no factor has categories, any: it says so.
        self._categories = next((i for i, factor in enumerate(factors) if factor.num_categories is not None), 0)
        self.noise_dim = sum(posterior.noise_dim for posterior in self.parts())
        return self

    def parts(self) -> list[Posterior]:
        """The posteriors in the order of the code."""
        return [posterior for posterior in self.posteriors if isinstance(posterior, Posterior)]

    def logits(self, features: Tensor) -> Tensor:
        return self.parts()[self._categories].logits(features)

    def reorder(self, order: Tensor) -> None:
        self.parts()[self._categories].reorder(order)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        parts = self.parts()
        if noise is None:
            return torch.cat([posterior(features) for posterior in parts], 1)
        noises = noise.split([posterior.noise_dim for posterior in parts], 1)
        pairs = zip(parts, noises, strict=True)
        return torch.cat([posterior(features, n if n.shape[1] else None) for posterior, n in pairs], 1)


def default_posterior(prior: Prior) -> Posterior:
    """The posterior to use when the user names none: over the categories, where the code is nothing else."""
    if isinstance(prior, ProductPrior):
        return ProductPosterior([default_posterior(factor) for factor in prior.factors()])
    if prior.code_dim == 0:
        return NoPosterior()
    return CategoricalPosterior() if prior.num_categories == prior.code_dim else DeterministicPosterior()
