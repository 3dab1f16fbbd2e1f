"""A decoder with independent pixels, that of an ordinary autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pixelgan_lightning.decoders.base import Decoder, Known, Offset
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Likelihood


class ConvDecoder(Decoder):
    """``p(x|z) = prod_i p(x_i|z)``: the code alone decides each pixel's distribution, as in an adversarial autoencoder.

    A fully connected layer gives a small map, which transposed convolutions double until it covers the image. Sampling
    takes one pass. A pixel's channels depend on each other only where the likelihood models them jointly.

    Args:
        channels: channels of the maps, from the smallest on; each but the last is followed by a doubling.

    Raises:
        ConfigurationError: no channels, or numbers below 1.
    """

    def __init__(self, channels: Sequence[int] = (128, 64, 32)) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigurationError(f"channels={list(channels)} is not usable: allowed is a list of numbers >= 1")
        self.channels = tuple(channels)

    def build(self, image_shape: tuple[int, int, int], code_dim: int, likelihood: Likelihood) -> Self:
        if code_dim < 1:
            raise ConfigurationError("decoder=ConvDecoder without a code is not usable: allowed are priors with a code")
        colours, height, width = image_shape
        self.image_shape, self.likelihood = image_shape, likelihood
        factor = 2 ** (len(self.channels) - 1)
        rows, columns = -(-height // factor), -(-width // factor)
        layers: list[nn.Module] = [
            nn.Linear(code_dim, self.channels[0] * rows * columns),
            nn.Unflatten(1, (self.channels[0], rows, columns)),
            nn.ReLU(),
        ]
        for c_in, c_out in zip(self.channels, self.channels[1:], strict=False):
            layers += [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(self.channels[-1], likelihood.params_per_pixel(colours), 3, padding=1))
        self.layers = nn.Sequential(*layers)
        return self

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.layers(z)[:, :, : self.image_shape[1], : self.image_shape[2]]

    def receptive_field(self) -> frozenset[Offset]:
        return frozenset()

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        channels, height, width = self.image_shape
        params = self(z.new_zeros(len(z), *self.image_shape), z).permute(0, 2, 3, 1).flatten(0, 2)  # [B H W, P]
        draws = uniforms.flatten(0, 2)
        if self.likelihood.channels_jointly:
            values = self.likelihood.sample(params, draws, temperature)
        else:
            groups = zip(params.chunk(channels, 1), draws.chunk(channels, 1), strict=True)
            values = torch.cat([self.likelihood.sample(p, u, temperature) for p, u in groups], 1)
        x = values.view(len(z), height, width, channels).permute(0, 3, 1, 2).contiguous()
        return x if known is None else torch.where(known.mask.to(x.device), known.image.to(x), x)
