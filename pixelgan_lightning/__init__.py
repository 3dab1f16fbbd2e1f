"""PixelGAN autoencoders (Makhzani and Frey, NIPS 2017, arXiv:1706.00531) in PyTorch Lightning."""

__version__ = "0.1.0"

from pixelgan_lightning.model import PixelGAN  # after the version, which the model reads

__all__ = ["PixelGAN", "__version__"]
