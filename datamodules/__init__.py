"""Data modules: images in memory, with splits, labelled subsets and binarisation that are functions of their seeds."""

from pixelgan_lightning.datamodules.base import ImageDataModule
from pixelgan_lightning.datamodules.digits import DigitsDataModule
from pixelgan_lightning.datamodules.fashion_mnist import FashionMNISTDataModule
from pixelgan_lightning.datamodules.hugging_face import HuggingFaceDataModule
from pixelgan_lightning.datamodules.image_tensor import ImageTensorDataModule
from pixelgan_lightning.datamodules.loaders import EvalLoader, TrainLoader
from pixelgan_lightning.datamodules.mnist import MNISTDataModule
from pixelgan_lightning.datamodules.norb import NORBDataModule
from pixelgan_lightning.datamodules.svhn import SVHNDataModule
from pixelgan_lightning.datamodules.torchvision_sets import TorchvisionDataModule

__all__ = [
    "DigitsDataModule",
    "EvalLoader",
    "FashionMNISTDataModule",
    "HuggingFaceDataModule",
    "ImageDataModule",
    "ImageTensorDataModule",
    "MNISTDataModule",
    "NORBDataModule",
    "SVHNDataModule",
    "TorchvisionDataModule",
    "TrainLoader",
]
