"""PixelGAN autoencoders (Makhzani and Frey, NIPS 2017, arXiv:1706.00531) in PyTorch Lightning."""

from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.version import __version__

__all__ = ["PixelGAN", "__version__"]
