"""The categorical posterior: a softmax vector is the code."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.normalization import BatchNorm
from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.priors import Prior


class CategoricalPosterior(Posterior):
    """``z = softmax(logits(x))``; the discriminator forces it towards the vertices (section 2.2).

    A softmax code collapses easily: a confident code has no gradient towards a category that no image uses, and it
    never comes back. So the logits of each category are standardised over the batch and multiplied by ``gain``: every
    category then is high for some images of every batch, and none can die.

    Args:
        gain: standard deviation of each logit over the batch; larger means more confident codes.
        standardize: False gives the plain logits of the paper.
    """

    def __init__(self, gain: float = 3.0, standardize: bool = True) -> None:
        super().__init__()
        if gain <= 0:
            raise ConfigurationError(f"gain={gain} is not usable: allowed are values > 0")
        self.gain, self.standardize = gain, standardize

    def build(self, num_features: int, prior: Prior) -> Self:
        if prior.num_categories is None:
            raise ConfigurationError(
                f"posterior=CategoricalPosterior does not fit prior={type(prior).__name__}: it needs a prior over "
                "categories, for example Categorical"
            )
        # A bias would be removed by the standardisation.
        self.linear = nn.Linear(num_features, prior.code_dim, bias=not self.standardize)
        self.norm = BatchNorm(prior.code_dim, affine=False) if self.standardize else nn.Identity()
        return self

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised ``log q(y|x)``, ``[B, K]``."""
        logits = self.norm(self.linear(features))
        return self.gain * logits if self.standardize else logits

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.logits(features).softmax(1)
