"""Encoders: the trunk of the recognition network."""

from pixelgan_lightning.encoders.base import Encoder
from pixelgan_lightning.encoders.conv import ConvEncoder

__all__ = ["ConvEncoder", "Encoder"]
