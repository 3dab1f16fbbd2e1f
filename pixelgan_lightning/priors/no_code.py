"""No code at all."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.priors.base import Prior


class NoCode(Prior):
    """The empty code: the decoder alone models the image, and the adversarial phases have nothing to do.

    With :class:`~pixelgan_lightning.decoders.GatedPixelCNN` this is the plain PixelCNN, the baseline without a code.
    ``log p(x)`` is exact: there is one code.
    """

    code_dim = num_draws = 0

    def from_draws(self, draws: Tensor) -> tuple[Tensor, None]:
        return draws, None

    def log_prob(self, z: Tensor) -> Tensor:
        """0: the one code has probability 1."""
        return z.new_zeros(len(z))

    def enumerate(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 0, dtype=torch.float32), torch.zeros(1, dtype=torch.float64)
