"""Decoders: how an image is drawn from a code."""

from pixelgan_lightning.decoders.base import Decoder, Known, draw_uniforms, sample_by_full_passes
from pixelgan_lightning.decoders.conv import ConvDecoder
from pixelgan_lightning.decoders.gated_pixelcnn import GatedPixelCNN

__all__ = [
    "ConvDecoder",
    "Decoder",
    "GatedPixelCNN",
    "Known",
    "draw_uniforms",
    "sample_by_full_passes",
]
