"""A PixelCNN over blocks of 2x2 pixels: a quarter of the positions, for machines without a GPU."""

from __future__ import annotations

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
    a kernel covers four times the area.

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
        """Offsets of blocks, not of pixels."""
        return self.blocks.receptive_field()

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        draws = F.pixel_unshuffle(uniforms.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()
        if known is not None:
            raise ConfigurationError("decoder=PackedPixelCNN is not usable for completion: allowed is GatedPixelCNN")
        return F.pixel_shuffle(self.blocks.sample(z, draws, temperature), 2)
