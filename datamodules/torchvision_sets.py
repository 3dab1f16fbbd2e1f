"""The classification data sets of torchvision, by their names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelgan_lightning.datamodules.arrays import images_from_array
from pixelgan_lightning.datamodules.base import Source, Split
from pixelgan_lightning.datamodules.conversion import Conversion, Fit
from pixelgan_lightning.datamodules.expansion import require_memory
from pixelgan_lightning.datamodules.image_sets import ImageSet, ImageSets, ImageSetsDataModule, Options
from pixelgan_lightning.datamodules.labels import UNKNOWN
from pixelgan_lightning.datamodules.pictures import PictureReader
from pixelgan_lightning.datamodules.pixels import CHUNK
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.messages import say

_Sets = dict[Split, dict[str, Any]]

_FLAG: _Sets = {"train": {"train": True}, "test": {"train": False}}
_TWO: _Sets = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: _Sets = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_ONE: _Sets = {"train": {}}


class KnownSet(NamedTuple):
    """What has to be known of a data set before it is there.

    Attributes:
        classes: how many there are, or how many by the value of :attr:`option`.
        sets: arguments of torchvision's class for each of the sets.
        channels: 1 or 3.
        side: height and width; None: the pictures are of different sizes.
        option: an argument of torchvision's class, and its value where the user gives none.
        transposed: images are stored with rows and columns exchanged.
    """

    classes: int | dict[str, int]
    sets: _Sets
    channels: int = 3
    side: int | None = None
    option: tuple[str, str] = ("", "")
    transposed: bool = False


_EMNIST = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
_AIRCRAFT = {"variant": 100, "family": 70, "manufacturer": 41}

KNOWN: dict[str, KnownSet] = {
    "MNIST": KnownSet(10, _FLAG, 1, 28),
    "FashionMNIST": KnownSet(10, _FLAG, 1, 28),
    "KMNIST": KnownSet(10, _FLAG, 1, 28),
    "QMNIST": KnownSet(10, _FLAG, 1, 28),
    "EMNIST": KnownSet(_EMNIST, _FLAG, 1, 28, option=("split", "balanced"), transposed=True),
    "USPS": KnownSet(10, _FLAG, 1, 16),
    "SEMEION": KnownSet(10, _ONE, 1, 16),
    "CIFAR10": KnownSet(10, _FLAG, 3, 32),
    "CIFAR100": KnownSet(100, _FLAG, 3, 32),
    "SVHN": KnownSet(10, _TWO, 3, 32),
    "STL10": KnownSet(10, _TWO, 3, 96),
    "EuroSAT": KnownSet(10, _ONE, 3, 64),
    "GTSRB": KnownSet(43, _TWO),
    "DTD": KnownSet(47, _THREE),
    "Flowers102": KnownSet(102, _THREE),
    "Food101": KnownSet(101, _TWO),
    "OxfordIIITPet": KnownSet(37, {**_TWO, "train": {"split": "trainval"}}),
    "FGVCAircraft": KnownSet(_AIRCRAFT, _THREE, option=("annotation_level", "variant")),
    "Imagenette": KnownSet(10, {**_TWO, "test": {"split": "val"}}),
    "Country211": KnownSet(211, {**_THREE, "val": {"split": "valid"}}),
    "RenderedSST2": KnownSet(2, _THREE, 3, 448),
    "Caltech101": KnownSet(101, _ONE),
    "Caltech256": KnownSet(257, _ONE),
    "SUN397": KnownSet(397, _ONE),
}
"""By the name of the class in ``torchvision.datasets``."""


class TorchvisionDataModule(ImageSetsDataModule):
    """A classification data set of torchvision: MNIST, EMNIST, KMNIST, CIFAR10, STL10 and others (:data:`KNOWN`).

    torchvision downloads it where it is missing and checks it; a copy that lies in ``data_dir`` as torchvision leaves
    it there is read without a network. Training and test images are those of the data set, and so are validation images
    where it sets some apart; else ``val_fraction`` of the training images are. Without test images of its own (EuroSAT,
    SEMEION, Caltech, SUN397) a data set has no test. Images have 256 levels. EMNIST, which is stored with rows and
    columns exchanged, is read upright.

    Args:
        name: of the class in ``torchvision.datasets``.
        data_dir: folder of the files; None for the environment variable ``PIXELGAN_DATA``, or ``data`` where that is
            not set.
        side: height and width that images are made to have; needed where they are of different sizes.
        channels: 1 (grey) or 3 (colours); None for what the data set has.
        fit: how an image that is no square becomes one, ``"crop"`` or ``"pad"``.
        background: what is beside padded images, from 0 (black) to 1 (white).
        options: further arguments of torchvision's class: ``{"split": "letters"}`` of EMNIST for one. What decides
            which set is read holds for training alone: ``{"split": "train+unlabeled"}`` of STL10 adds the 100,000
            images without label to it.
        download: fetch the data set where it is missing.
        kwargs: see :class:`~pixelgan_lightning.datamodules.image_sets.ImageSetsDataModule`.

    Raises:
        ConfigurationError: an argument is not usable; on use of the data also: it is missing or damaged.
    """

    native_levels = 256

    def __init__(
        self,
        name: str,
        data_dir: str | None = None,
        *,
        side: int | None = None,
        channels: int | None = None,
        fit: Fit = "crop",
        background: float = 1.0,
        options: Options | None = None,
        download: bool = True,
        **kwargs: Any,
    ) -> None:
        if name not in KNOWN:
            raise ConfigurationError(f"name={name!r} is unknown: allowed are {', '.join(KNOWN)}")
        known = KNOWN[name]
        if side is None and known.side is None:
            raise ConfigurationError(f"side=None is not usable with {name}, of many sizes: allowed are 1, 2, 3, ...")
        self.conversion = Conversion(channels=channels or known.channels, background=background, side=side, fit=fit)
        self.conversion.require_usable()
        self.set_name, self._known, self.download = name, known, download
        self.data_dir = os.environ.get("PIXELGAN_DATA", "data") if data_dir is None else data_dir
        option, default = known.option
        self.options = {**({option: default} if option else {}), **(options or {})}
        if isinstance(known.classes, int):
            self.num_classes = known.classes
        elif (value := str(self.options[option])) in known.classes:
            self.num_classes = known.classes[value]
        else:
            raise ConfigurationError(
                f"options={self.options} is not usable: allowed for {option} are {', '.join(known.classes)}"
            )
        size = side or known.side
        assert size is not None
        self.image_shape = (channels or known.channels, size, size)
        if "test" not in known.sets:
            self.predict_split_names = ("train", "val")
        super().__init__(**kwargs)

    def prepare_data(self) -> None:
        """Download the data set where it is missing and ``download`` is set.

        Raises:
            ConfigurationError: it is missing and could not be downloaded.
        """
        for split in self._known.sets:
            self._open(split, self.download)

    def origin(self, source: Source) -> str:
        """Name and place of the data set."""
        return f"name={self.set_name!r} in data_dir={self.data_dir!r}"

    def read_sets(self, source: Source) -> ImageSets:
        """The images of a source.

        Raises:
            ConfigurationError: they are missing or damaged, or there are no test images.
        """
        wanted: tuple[Split, ...] = ("train", "val") if source == "train" else ("test",)
        sets: ImageSets = {split: self._read(split) for split in wanted if split in self._known.sets}
        if not sets:
            raise ConfigurationError("it has no test images: allowed are training, validation and prediction")
        return sets

    def _read(self, split: Split) -> ImageSet:
        stored = self._open(split, download=False)
        self.class_names = self._names(stored)
        require_memory(len(stored), self.image_shape[0] * self.image_shape[1] * self.image_shape[2])
        images = torch.empty(len(stored), *self.image_shape, dtype=torch.uint8)
        first = 1 if self.options.get("split") == "letters" else 0  # these are counted from 1
        names = {-1: UNKNOWN, **dict(enumerate(self.class_names, start=first))}
        labels = np.empty(len(stored), dtype=f"U{max(map(len, self.class_names))}")
        reader = PictureReader(self.conversion)
        for begin in range(0, len(stored), CHUNK):
            rows = range(begin, min(begin + CHUNK, len(stored)))
            pictures, numbers = zip(*(stored[row] for row in rows), strict=True)
            read = self._images(pictures, reader)
            if read.shape[1:] != images.shape[1:]:
                raise ConfigurationError(f"its images are {list(read.shape[1:])}: allowed are {list(images.shape[1:])}")
            images[begin : begin + CHUNK] = read
            labels[begin : begin + CHUNK] = [names[int(number)] for number in numbers]
        reader.report(self.set_name)
        return ImageSet(images, labels)

    def _images(self, pictures: Sequence[Image.Image], reader: PictureReader) -> Tensor:
        """``[N, C, H, W]`` uint8."""
        if self._known.transposed:
            pictures = [picture.transpose(Image.Transpose.TRANSPOSE) for picture in pictures]
        if self._known.side is None:
            return torch.stack([reader.convert(picture, self.set_name) for picture in pictures])
        return images_from_array(np.stack([np.asarray(picture) for picture in pictures]), self.conversion)

    def _names(self, stored: Any) -> tuple[str, ...]:
        """What torchvision calls the classes; numbers where it has no names."""
        names: Sequence[Any] = getattr(stored, "classes", None) or getattr(stored, "categories", None) or ()
        names = [name if isinstance(name, str) else name[0] for name in names if name != "N/A"]
        names = [name.partition(" - ")[0] for name in names]  # MNIST has "7 - seven"
        assert self.num_classes is not None
        return tuple(names) if len(names) == self.num_classes else tuple(map(str, range(self.num_classes)))

    def _open(self, split: Split, download: bool) -> Any:
        """The data set of torchvision, downloaded if it has to be and may be."""
        import torchvision.datasets  # here, because the import takes a second

        own = self._known.sets[split]
        arguments = {**own, **self.options} if split == "train" else {**self.options, **own}
        make = getattr(torchvision.datasets, self.set_name)
        try:
            inspect.signature(make).bind(self.data_dir, **arguments)
        except TypeError as error:
            raise ConfigurationError(f"options={self.options} is not usable with {self.set_name}: {error}") from error
        problem: Exception | None = None
        for fetch in (False, True) if download else (False,):
            if fetch:
                say(f"download: {self.set_name} into {self.data_dir}")
            try:
                return make(self.data_dir, **arguments, download=fetch)
            except Exception as error:  # torchvision's readers raise anything on files that are not as published
                problem = error
        reason = " ".join(str(problem).split())
        raise ConfigurationError(
            f"data_dir={self.data_dir!r} has no {self.set_name} (download={download}: {reason}): allowed is a folder "
            "with the data set as torchvision leaves it, or download=True"
        )
