"""Augmentations: random views of images for the encoder."""

from pixelgan_lightning.augmentations.affine import RandomAffine
from pixelgan_lightning.augmentations.base import Augmentation

__all__ = ["Augmentation", "RandomAffine"]
