"""Images that come as one, two or three sets: training, and validation and test images where they are set apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pixelgan_lightning.datamodules.base import ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.labels import UNKNOWN, class_numbers, sorted_classes
from pixelgan_lightning.datamodules.splits import stratified_order
from pixelgan_lightning.errors import ConfigurationError


class ImageSet(NamedTuple):
    """Some images.

    Attributes:
        images: ``[N, C, H, W]`` uint8.
        labels: names of their classes, text ``[N]``, empty for an image without label.
        names: of the images, N of them, or None.
    """

    images: Tensor
    labels: np.ndarray
    names: tuple[str, ...] | None = None


ImageSets = dict[Split, ImageSet]

Options = dict[str, str | int | float | bool | None]
"""Arguments for a library's function; no objects, which a stored configuration could have made of class paths."""


class ImageSetsDataModule(ImageDataModule):
    """Images of :class:`ImageSet`: those for validation are a set of their own, or a share of those for training.

    A subclass implements :meth:`read_sets` and :meth:`origin`. Before this class is initialised it calls
    :meth:`describe_training`, or sets :attr:`image_shape` and :attr:`num_classes` itself.

    Args:
        val_fraction: share of the training images that are validation images, drawn with the classes (and the images
            without label) in their proportions. Not used where validation images are a set of their own.
        split_seed: key of that draw.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
    """

    def __init__(self, *, val_fraction: float = 0.1, split_seed: int = 0, **kwargs: Any) -> None:
        if not 0 < val_fraction < 1:
            raise ConfigurationError(f"val_fraction={val_fraction} is not usable: allowed are numbers between 0 and 1")
        self.val_fraction, self.split_seed = val_fraction, split_seed
        super().__init__(**kwargs)

    def read_sets(self, source: Source) -> ImageSets:
        """The sets of a source: "train" and, where there is one, "val"; or "test".

        Raises:
            ConfigurationError: they cannot be read.
        """
        raise NotImplementedError

    def origin(self, source: Source) -> str:
        """What errors call the place where a source comes from: an argument and its value."""
        raise NotImplementedError

    def describe_training(self) -> None:
        """Read the training images, and take shape, number and names of the classes from them."""
        labels = self._set("train").labels
        self.image_shape = tuple(self._set("train").images.shape[1:])  # type: ignore[assignment]
        self.class_names = sorted_classes(labels) or None
        self.num_classes = None if self.class_names is None else len(self.class_names)

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """The images and labels of a source; validation images that are a set of their own follow those for training.

        Raises:
            ConfigurationError: they cannot be read, or are of other classes than the training images.
        """
        found = self._set(source)
        with self._named(source):
            return found.images, class_numbers(found.labels, self.class_names or ())

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split: validation is a set of its own, or a share ``val_fraction``, drawn by ``split_seed``."""
        size = len(labels)
        if split == "test":
            return torch.arange(size)
        if own := self._own_validation:
            return torch.arange(size - own, size) if split == "val" else torch.arange(size - own)
        border = round(self.val_fraction * size)
        if not 1 <= border < size:
            raise ConfigurationError(
                f"val_fraction={self.val_fraction} is not usable with {size} images: allowed are shares that leave an "
                "image or more on both sides"
            )
        order = stratified_order(labels, self.split_seed, "split")
        return (order[:border] if split == "val" else order[border:]).sort().values

    def image_name(self, source: Source, row: int) -> str | None:
        """The name that the image has where it was read."""
        names = self._set(source).names
        return None if names is None else names[row]

    def _set(self, source: Source) -> ImageSet:
        """All images of a source, read once."""
        read: dict[Source, ImageSet] = self.__dict__.setdefault("_read_sets", {})
        if source not in read:
            with self._named(source):
                sets = self.read_sets(source)
                if source == "train":
                    self._own_validation = len(sets["val"].images) if "val" in sets else 0
                read[source] = joined(list(sets.values()))
        return read[source]

    @contextmanager
    def _named(self, source: Source) -> Iterator[None]:
        """Errors say where the images come from."""
        try:
            yield
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.origin(source)} is not usable: {error}") from error


def joined(sets: list[ImageSet]) -> ImageSet:
    """One set after the other.

    Raises:
        ConfigurationError: images are of different shapes.
    """
    if len(sets) == 1:
        return sets[0]
    shapes = {tuple(part.images.shape[1:]) for part in sets}
    if len(shapes) > 1:
        raise ConfigurationError(f"its images are of shapes {sorted(shapes)}: allowed is one shape, side=32 for one")
    names = [part.names or (UNKNOWN,) * len(part.images) for part in sets]
    return ImageSet(
        torch.cat([part.images for part in sets]),
        np.concatenate([part.labels for part in sets]),
        None if all(part.names is None for part in sets) else sum(names, ()),
    )
