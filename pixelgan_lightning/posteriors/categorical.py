"""The categorical posterior: a softmax vector is the code."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.numerics.normalization import BatchNorm
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.priors import Prior

StraightThrough = Literal["argmax", "sample"]


class CategoricalPosterior(Posterior):
    """``z = softmax(logits(x))``; the discriminator forces it towards the vertices (section 2.2).

    A softmax code collapses easily: a confident code has no gradient towards a category that no image uses, and it
    never comes back. So the logits of each category are standardised over the batch and multiplied by ``gain``: every
    category then is high for some images of every batch, and none can die.

    Args:
        gain: standard deviation of each logit over the batch; larger means more confident codes.
        standardize: False gives the plain logits of the paper.
        straight_through: None: the softmax vector is the code, as in the paper. ``argmax``: its largest entry as a
            one-hot vector; ``sample``: a one-hot draw from ``q(y|x)`` (without noise the largest entry). Gradients pass
            as if the code were the softmax vector (Bengio et al., 2013).

    Raises:
        ConfigurationError: values out of range.
    """

    def __init__(
        self, gain: float = 3.0, standardize: bool = True, straight_through: StraightThrough | None = None
    ) -> None:
        super().__init__()
        if not gain > 0:
            raise ConfigurationError(f"gain={gain} is not usable: allowed are values > 0")
        if straight_through not in (None, "argmax", "sample"):
            raise ConfigurationError(
                f"straight_through={straight_through!r} is not usable: allowed are null, 'argmax' and 'sample'"
            )
        self.gain, self.standardize = gain, standardize
        self.straight_through: StraightThrough | None = straight_through

    def build(self, num_features: int, prior: Prior) -> Self:
        if prior.num_categories is None or prior.code_dim != prior.num_categories:
            raise ConfigurationError(
                f"posterior=CategoricalPosterior does not fit prior={type(prior).__name__}: it needs a prior over "
                "categories, for example Categorical"
            )
        # A bias would be removed by the standardisation.
        self.linear = nn.Linear(num_features, prior.code_dim, bias=not self.standardize)
        self.noise_dim = prior.code_dim if self.straight_through == "sample" else 0
        self.norm = BatchNorm(prior.code_dim, affine=False) if self.standardize else nn.Identity()
        return self

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised ``log q(y|x)``, ``[B, K]``."""
        logits = self.norm(self.linear(features))
        return self.gain * logits if self.standardize else logits

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        for value in self.state_dict(keep_vars=True).values():  # everything here has a row per category
            value.copy_(value[order.to(value.device)])

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        logits = self.logits(features)
        soft = logits.softmax(1)
        if self.straight_through is None:
            return soft
        if noise is not None:  # Gumbel's trick, with normal draws turned into exponential ones
            logits = logits.detach() - _exponential(noise).log()
        one_hot = torch.zeros_like(soft).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
        return one_hot + (soft - soft.detach())  # the bracket is exactly zero


def _exponential(normal: Tensor) -> Tensor:
    """Exponential draws that are a function of standard normal ones."""
    return -torch.special.log_ndtr(normal.double()).to(normal)
