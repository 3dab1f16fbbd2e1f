"""Random colours."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.augmentations.base import Augmentation
from pixelgan_lightning.errors import ConfigurationError


class RandomColour(Augmentation):
    """Contrast, brightness of each colour channel, and inversion: for images whose content is not in their colour.

    Around the mean of an image its values are multiplied by ``exp(u)``, ``|u| <= contrast``; each channel is shifted by
    up to ``brightness`` either way; the result is clamped to [0, 1], and inverted (``1 - x``) with probability
    ``invert``. House numbers are as often dark on light as light on dark.

    Args:
        contrast: range of the logarithm of the factor.
        brightness: largest shift of a channel.
        invert: probability of an inversion.

    Raises:
        ConfigurationError: a negative range, or a probability outside [0, 1].
    """

    num_draws = 5  # of the channels' shifts there are three; a fourth channel shares the first one's

    def __init__(self, contrast: float = 0.4, brightness: float = 0.2, invert: float = 0.0) -> None:
        super().__init__()
        for name, value in {"contrast": contrast, "brightness": brightness}.items():
            if not value >= 0:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are values >= 0")
        if not 0 <= invert <= 1:
            raise ConfigurationError(f"invert={invert} is not usable: allowed are probabilities from 0 to 1")
        self.contrast, self.brightness, self.invert = contrast, brightness, invert

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        column = draws[:, :, None, None].to(x)  # [B, 5, 1, 1]
        factor = ((2 * column[:, 0:1] - 1) * self.contrast).exp()
        channels = torch.arange(x.shape[1], device=x.device) % 3
        shift = (2 * column[:, 1:4].index_select(1, channels) - 1) * self.brightness
        mean = x.mean((1, 2, 3), keepdim=True)
        y = ((x - mean) * factor + mean + shift).clamp(0, 1)
        return torch.where(column[:, 4:5] < self.invert, 1 - y, y)

    def milder(self, draws: Tensor) -> Tensor:
        return torch.cat([super().milder(draws[:, :4]), draws[:, 4:]], 1)  # as often inverted as in training
