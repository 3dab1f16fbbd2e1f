"""A small convolutional encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from pixelgan_lightning.encoders.base import Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.numerics.normalization import BatchNorm

Norm = Literal["batch", "group", "none"]


class ConvEncoder(Encoder):
    """3x3 convolutions, then a fully connected layer.

    Args:
        channels: output channels of each convolution.
        num_features: width of the fully connected layer, which is what the posterior sees.
        norm: ``batch`` (statistics of the global batch, see
            :class:`~pixelgan_lightning.numerics.normalization.BatchNorm`), ``group`` (GroupNorm with 8 channels a
            group) or ``none``.
        strides: stride of each convolution; None for 2 everywhere, which halves the image each time.

    Raises:
        ConfigurationError: ``channels``, ``num_features`` or ``strides`` below 1 or of different length; an unknown
            ``norm``, or channels that do not fit it.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        num_features: int = 256,
        norm: Norm = "batch",
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigurationError(f"channels={list(channels)} is not usable: allowed is a list of numbers >= 1")
        if num_features < 1:
            raise ConfigurationError(f"num_features={num_features} is not usable: allowed are numbers >= 1")
        if norm not in ("batch", "group", "none"):
            raise ConfigurationError(f"norm={norm!r} is not usable: allowed are 'batch', 'group', 'none'")
        if norm == "group" and any(c % 8 for c in channels):
            raise ConfigurationError(f"channels={list(channels)} is not usable: norm='group' needs multiples of 8")
        if strides is not None and (len(strides) != len(channels) or min(strides) < 1):
            raise ConfigurationError(
                f"strides={list(strides)} is not usable: allowed are {len(channels)} numbers >= 1, one a convolution"
            )
        self.channels, self.num_features, self.norm = tuple(channels), num_features, norm
        self.strides = tuple(strides) if strides is not None else (2,) * len(channels)

    def build(self, image_shape: tuple[int, int, int]) -> Self:
        c_in, height, width = image_shape
        layers: list[nn.Module] = []
        for c_out, stride in zip(self.channels, self.strides, strict=True):
            layers += [nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=self.norm != "batch")]
            layers += [self._norm(c_out), nn.ReLU()]
            c_in, height, width = c_out, -(-height // stride), -(-width // stride)
        layers += [nn.Flatten(), nn.Linear(c_in * height * width, self.num_features, bias=self.norm != "batch")]
        layers += [BatchNorm(self.num_features) if self.norm == "batch" else nn.Identity(), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # faster on CPUs; what comes out is the same
        return self

    def _norm(self, channels: int) -> nn.Module:
        if self.norm == "batch":
            return BatchNorm(channels)
        return nn.GroupNorm(channels // 8, channels) if self.norm == "group" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(2 * x - 1)
