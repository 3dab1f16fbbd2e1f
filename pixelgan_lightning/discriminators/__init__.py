"""Discriminators on codes."""

from pixelgan_lightning.discriminators.base import Discriminator
from pixelgan_lightning.discriminators.mlp import MLPDiscriminator

__all__ = ["Discriminator", "MLPDiscriminator"]
