"""The contract of a discriminator on codes."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from pixelgan_lightning.component import Component


class Discriminator(Component):
    """Tells samples of the prior (real) from codes of images (fake)."""

    code_noise: float = 0.0
    """Standard deviation of the Gaussian noise that the model adds to every code shown to the discriminator."""

    def build(self, code_dim: int) -> Self:
        """Create the parameters for codes ``[B, code_dim]``."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B]`` of "this code is a sample of the prior"."""
        raise NotImplementedError
