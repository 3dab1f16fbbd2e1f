"""Augmentations: random views of images for the encoder."""

from pixelgan_lightning.augmentations.affine import RandomAffine
from pixelgan_lightning.augmentations.base import Augmentation
from pixelgan_lightning.augmentations.chain import Chain
from pixelgan_lightning.augmentations.colour import RandomColour
from pixelgan_lightning.augmentations.random_apply import RandomApply

__all__ = ["Augmentation", "Chain", "RandomAffine", "RandomApply", "RandomColour"]
