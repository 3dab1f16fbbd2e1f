"""Data modules: images in memory, with splits, labelled subsets and binarisation that are functions of their seeds."""

from pixelgan_lightning.datamodules.base import ImageDataModule
from pixelgan_lightning.datamodules.digits import DigitsDataModule
from pixelgan_lightning.datamodules.loaders import EvalLoader, TrainLoader
from pixelgan_lightning.datamodules.mnist import MNISTDataModule

__all__ = ["DigitsDataModule", "EvalLoader", "ImageDataModule", "MNISTDataModule", "TrainLoader"]
