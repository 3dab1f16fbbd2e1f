"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): format and splits of MNIST, with clothes in place of digits."""

from __future__ import annotations

from pixelgan_lightning.datamodules.mnist import MNISTDataModule


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: images 1x28x28 of 256 grey levels, 10 classes of clothes.

    Arguments, files (in ``FashionMNIST/raw``) and splits are those of
    :class:`~pixelgan_lightning.datamodules.mnist.MNISTDataModule`.
    """

    class_names = (
        "t-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )

    torchvision_name = "FashionMNIST"
    url = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"  # torchvision's is http
