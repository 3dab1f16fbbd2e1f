"""The contract of a likelihood: what the decoder's outputs mean for one image."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError


class Likelihood(Component):
    """The conditional distribution of one pixel, given the parameters that a decoder computes for it.

    Images hold values in [0, 1]: with ``levels`` grey levels exactly ``level / (levels - 1)``.
    """

    levels: int
    """Number of grey levels L."""

    channels_jointly: bool = False
    """True: the likelihood itself makes a pixel's channels depend on each other. False: the decoder feeds channels
    0..c-1 of a pixel into the parameters of channel c, in this order."""

    def params_per_pixel(self, channels: int) -> int:
        """P, the number of parameters per pixel; channel by channel unless ``channels_jointly``."""
        raise NotImplementedError

    def uniforms_per_pixel(self, channels: int) -> int:
        """U, the number of uniform draws that sampling one pixel takes."""
        return channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """``log p(x|params)``, nats per image ``[B]``, of ``[B, P, H, W]`` and ``[B, C, H, W]``; float32 or better."""
        raise NotImplementedError

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Values ``[B, C]`` of one pixel by inverse CDF from ``[B, P]`` and ``[B, U]``.

        Without ``channels_jointly`` it is called once per channel, with that channel's parameters and draw.
        ``temperature`` divides the logits.
        """
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raise unless every value of ``x`` is a grey level.

        Raises:
            ConfigurationError: a value that is not one of the L levels.
        """
        scaled = x * (self.levels - 1)
        wrong = ~((scaled - scaled.round()).abs() <= 1e-3) | (x < 0) | (x > 1)  # written so that NaN is wrong
        if wrong.any():
            raise ConfigurationError(
                f"image value {x[wrong][0].item():.6g} is not usable: likelihood={type(self).__name__} with "
                f"levels={self.levels} allows {{0, 1}}"
                + ("" if self.levels == 2 else f" and the multiples of 1/{self.levels - 1} between")
            )


def full_precision(params: Tensor) -> Tensor:
    """At least float32: sums of half-precision log-likelihoods are off by more than models differ."""
    return params.float() if params.dtype in (torch.float16, torch.bfloat16) else params
