"""The contract of an augmentation: a random view of each image of a batch."""

from __future__ import annotations

from torch import Tensor

from pixelgan_lightning.component import Component


class Augmentation(Component):
    """A random change that leaves the content of an image alone.

    In training the encoder sees views instead of images; the decoder's target is always the image itself. A view is a
    function of the image and of the uniform draws it is given, so that the draws can be keyed by step and row.
    """

    num_draws: int
    """Number of uniform draws in [0, 1) that one view needs."""

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        """Views ``[B, C, H, W]`` of images ``[B, C, H, W]`` in [0, 1], from ``draws`` ``[B, num_draws]``."""
        raise NotImplementedError

    def milder(self, draws: Tensor) -> Tensor:
        """Draws of views for evaluation: from the middle half of every range, where images change less.

        An augmentation overrides it where a draw is compared with a probability, which a middle half would change.

        Args:
            draws: ``[B, num_draws]``, uniform.
        """
        return 0.25 + 0.5 * draws
