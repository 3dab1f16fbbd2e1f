"""The contract of an encoder: from images to features."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from pixelgan_lightning.component import Component


class Encoder(Component):
    """The trunk of the recognition network; a posterior turns its features into a code."""

    num_features: int
    """Length of the feature vector; known after :meth:`build`."""

    def build(self, image_shape: tuple[int, int, int]) -> Self:
        """Create the parameters for images ``[B, C, H, W]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, num_features]`` of images ``[B, C, H, W]`` with values in [0, 1]."""
        raise NotImplementedError
