"""The contract of a decoder ``p(x|z)``, and the plain way to sample from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pixelgan_lightning.component import Component
from pixelgan_lightning.likelihoods import Likelihood

Offset = tuple[int, int]


@dataclass(frozen=True)
class Known:
    """Pixels that are given, for completing an image.

    Args:
        image: ``[B, C, H, W]`` in [0, 1]; only the pixels in ``mask`` are read.
        mask: bool ``[H, W]`` on the CPU, true where a pixel is given.
    """

    image: Tensor
    mask: Tensor


class Decoder(Component):
    """Computes the parameters of ``p(x_i | x_<i, z)`` for all pixels of an image at once."""

    likelihood: Likelihood
    image_shape: tuple[int, int, int]

    def build(self, image_shape: tuple[int, int, int], code_dim: int, likelihood: Likelihood) -> Self:
        """Create the parameters for images ``[B, C, H, W]``, codes ``[B, code_dim]`` and ``likelihood``."""
        raise NotImplementedError

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Likelihood parameters ``[B, P, H, W]`` from images in [0, 1] and codes."""
        raise NotImplementedError

    def receptive_field(self) -> frozenset[Offset]:
        """All ``(row, column)`` offsets of the pixels that a pixel's parameters depend on (its own channels apart)."""
        raise NotImplementedError

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` drawn pixel by pixel by inverse CDF from ``uniforms`` ``[B, H, W, U]``.

        Pixels that are ``known`` keep their values, and those after them in the order depend on them. Decoders with a
        faster way override it; the result must be the same.
        """
        return sample_by_full_passes(self, z, uniforms, temperature, known)


def sample_by_full_passes(
    decoder: Decoder, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None
) -> Tensor:
    """The reference sampler: one pass of the whole network for every pixel (and channel)."""
    likelihood = decoder.likelihood
    channels, height, width = decoder.image_shape
    x = z.new_zeros(len(z), channels, height, width)
    groups = 1 if likelihood.channels_jointly else channels
    for row in range(height):
        for column in range(width):
            if known is not None and known.mask[row, column]:
                x[:, :, row, column] = known.image[:, :, row, column].to(x)
                continue
            for group in range(groups):
                params = decoder(x, z)[:, :, row, column].unflatten(1, (groups, -1))[:, group]
                u = uniforms[:, row, column]
                if likelihood.channels_jointly:
                    x[:, :, row, column] = likelihood.sample(params, u, temperature)
                else:
                    x[:, group : group + 1, row, column] = likelihood.sample(
                        params, u[:, group : group + 1], temperature
                    )
    return x


def draw_uniforms(decoder: Decoder, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """The uniforms ``[n, H, W, U]`` in [0, 1) that ``n`` images take; float64 or float32, as ``like`` needs."""
    channels, height, width = decoder.image_shape
    per_pixel = decoder.likelihood.uniforms_per_pixel(channels)
    uniforms = torch.rand(n, height, width, per_pixel, generator=generator, dtype=torch.float64)
    uniforms = uniforms.to(like.device, torch.float64 if like.dtype == torch.float64 else torch.float32)
    return uniforms.clamp(max=1 - torch.finfo(uniforms.dtype).eps / 2)  # float32 rounds the largest draws to 1
