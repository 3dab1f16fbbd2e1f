"""The contract of a discriminator on codes."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from pixelgan_lightning.component import Component


class Discriminator(Component):
    """Tells samples of the prior (real) from codes of images (fake)."""

    code_noise: float = 0.0
    """Standard deviation of the Gaussian noise that the model adds to every code shown to the discriminator."""

    label_aware: bool = False
    """Whether it sees labels beside codes, so that each class owns a component of the prior (Adversarial Autoencoders,
    section 2.3): one-hot vectors with a last place for "unknown"."""

    def build(self, code_dim: int) -> Self:
        """Create the parameters for codes ``[B, code_dim]``, with their labels behind them if it is ``label_aware``."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B]`` of "this code is a sample of the prior"."""
        raise NotImplementedError
