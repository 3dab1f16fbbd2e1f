"""Decoders: how an image is drawn from a code."""

from pixelgan_lightning.decoders.base import Decoder, draw_uniforms, sample_by_full_passes
from pixelgan_lightning.decoders.gated_pixelcnn import GatedPixelCNN

__all__ = ["Decoder", "GatedPixelCNN", "draw_uniforms", "sample_by_full_passes"]
