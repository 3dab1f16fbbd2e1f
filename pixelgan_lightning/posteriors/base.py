"""The contract of a posterior ``q(z|x)``: from encoder features to codes."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors import Prior


class Posterior(Component):
    """The last part of the encoder: draws a code from the features of an image."""

    noise_dim: int = 0
    """Number of standard normal draws that one code needs."""

    def build(self, num_features: int, prior: Prior) -> Self:
        """Create the parameters for ``[B, num_features]`` features and codes of ``prior``.

        Raises:
            ConfigurationError: this kind of posterior cannot match ``prior``.
        """
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised ``log q(y|x)``, ``[B, K]``, of posteriors over categories.

        Raises:
            ConfigurationError: the code has no categories.
        """
        raise ConfigurationError(
            f"posterior={type(self).__name__} has no categories: allowed is CategoricalPosterior, which goes with a "
            "prior over categories"
        )

    def reorder(self, order: Tensor) -> None:
        """Let category ``order[k]`` be called ``k`` from now on; ``order`` is a permutation ``[K]``.

        Raises:
            ConfigurationError: the code has no categories.
        """
        self.logits(torch.empty(0))  # says why it cannot
        raise NotImplementedError

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Codes ``[B, code_dim]`` from ``noise`` ``[B, noise_dim]``; without noise the mode of ``q(z|x)``."""
        raise NotImplementedError
