"""A PixelCNN over blocks of 2x2 pixels: a quarter of the positions, for machines without a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.decoders.base import Decoder, Known, Offset
from pixelgan_lightning.decoders.gated_pixelcnn import Bias, Condition, GatedPixelCNN
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Likelihood


class PackedPixelCNN(Decoder):
    """A :class:`GatedPixelCNN` on the image of half the side whose pixels are blocks of 2x2 pixels.

    The order is raster order over blocks and, inside a block, colour by colour in raster order; each value depends on
    all before it, those of its own block through the head. The stacks have a quarter of the positions to compute, and
    a kernel covers four times the area. Completing an image starts from whole blocks: an even number of rows.

    Args:
        channels, layers, first_kernel, kernel, dilations, bias, map_channels, condition: those of
            :class:`GatedPixelCNN`, counted in blocks.

    Raises:
        ConfigurationError: as :class:`GatedPixelCNN`; at ``build``, odd sides or a likelihood that models a pixel's
            channels jointly.
    """

    def __init__(
        self,
        channels: int = 32,
        layers: int = 5,
        first_kernel: int = 7,
        kernel: int = 3,
        dilations: Sequence[int] | None = None,
        bias: Bias = "location_invariant",
        map_channels: int = 8,
        condition: Condition = "every_layer",
    ) -> None:
        super().__init__()
        self.blocks = GatedPixelCNN(channels, layers, first_kernel, kernel, dilations, bias, map_channels, condition)

    def build(self, image_shape: tuple[int, int, int], code_dim: int, likelihood: Likelihood) -> Self:
        colours, height, width = image_shape
        if height % 2 or width % 2:
            raise ConfigurationError(
                f"image_shape={list(image_shape)} is not usable with PackedPixelCNN: allowed are even sides"
            )
        if likelihood.channels_jointly:
            raise ConfigurationError(
                f"likelihood={type(likelihood).__name__} is not usable with PackedPixelCNN: allowed are likelihoods of "
                "single channels, for example CategoricalLevels"
            )
        self.image_shape, self.likelihood = image_shape, likelihood
        self.blocks.build((4 * colours, height // 2, width // 2), code_dim, likelihood)
        return self

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        params = self.blocks(F.pixel_unshuffle(x, 2), z)  # [B, 4 C P, H / 2, W / 2], value by value
        colours = self.image_shape[0]
        per_value = params.shape[1] // (4 * colours)
        # pixel_shuffle wants the four places of a block next to each other, for every output channel.
        params = params.unflatten(1, (colours, 4, per_value)).transpose(2, 3).flatten(1, 3)
        return F.pixel_shuffle(params, 2)

    def receptive_field(self) -> frozenset[Offset]:
        """As in the base, joined over the four places of a block, which see different pixels."""
        places = list(itertools.product(range(2), range(2)))
        pairs = list(itertools.product(places, places))
        field = {
            (2 * r + other[0] - own[0], 2 * c + other[1] - own[1])
            for r, c in self.blocks.receptive_field()
            for own, other in pairs
        }
        # In its own block a value sees the earlier places of its colour, and every place of earlier colours.
        several = self.image_shape[0] > 1
        field |= {(b[0] - a[0], b[1] - a[1]) for a, b in pairs if b < a or (several and b != a)}
        return frozenset(field)

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        draws = F.pixel_unshuffle(uniforms.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()
        blocks = None if known is None else _known_blocks(known)
        return F.pixel_shuffle(self.blocks.sample(z, draws, temperature, blocks), 2)


def _known_blocks(known: Known) -> Known:
    """The same pixels as blocks, in the half of the size.

    Raises:
        ConfigurationError: pixels of one block are known and others are not.
    """
    parts = F.pixel_unshuffle(known.mask[None].float(), 2).bool()  # [4, H / 2, W / 2]
    if (parts != parts[:1]).any():
        raise ConfigurationError(
            "known pixels that cut through a block of 2x2 are not usable with decoder=PackedPixelCNN: allowed are "
            "whole blocks, for example an even number of rows"
        )
    return Known(F.pixel_unshuffle(known.image, 2), parts[0])
