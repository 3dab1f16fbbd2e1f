"""An augmentation that leaves some of the images as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.augmentations.base import Augmentation
from pixelgan_lightning.errors import ConfigurationError


class RandomApply(Augmentation):
    """A view with probability ``p``, otherwise the image itself.

    Evaluation shows the encoder images as they are. Views are not quite like them, interpolated ones are softer: an
    encoder that never saw an image as it is does a little worse on it than on a view.

    Args:
        augmentation: what makes the views.
        p: probability of a view, for each image by itself.

    Raises:
        ConfigurationError: a probability outside [0, 1].
    """

    def __init__(self, augmentation: Augmentation, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigurationError(f"p={p} is not usable: allowed are probabilities from 0 to 1")
        self.augmentation, self.p = augmentation, p
        self.num_draws = augmentation.num_draws + 1

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        changed = draws[:, -1, None, None, None] < self.p  # never if p is 0, always if it is 1
        return torch.where(changed, self.augmentation(x, draws[:, :-1]), x)

    def milder(self, draws: Tensor) -> Tensor:
        """Every view of evaluation is a view: the image itself needs no second look."""
        return torch.cat([self.augmentation.milder(draws[:, :-1]), torch.zeros_like(draws[:, -1:])], 1)
