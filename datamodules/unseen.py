"""Images that a trained model is to look at: a file or folder, made into what the model was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from pixelgan_lightning.datamodules.conversion import Conversion, Fit, ValueRange
from pixelgan_lightning.datamodules.image_sets import ImageSet, joined
from pixelgan_lightning.datamodules.image_tensor import read_image_sets
from pixelgan_lightning.datamodules.labels import UNKNOWN
from pixelgan_lightning.datamodules.loaders import EvalLoader
from pixelgan_lightning.datamodules.pictures import SUFFIXES, read_pictures
from pixelgan_lightning.datamodules.pixels import quantise
from pixelgan_lightning.errors import ConfigurationError

READING = ("eval_batch_size", "native_levels", "value_range", "background", "fit")
"""Arguments that a run's own data may have too: what it read is read in the same way here."""


class UnseenImages(pl.LightningDataModule):
    """All images of a path for ``predict``, and nothing to train on.

    What can be read is what :class:`~pixelgan_lightning.datamodules.image_tensor.ImageTensorDataModule` reads, and a
    single picture. Pictures get the number of channels of the model and, where its images are squares, their size.

    Args:
        path: the images, and their classes where the file or folder names some.
        image_shape: ``(C, H, W)`` that the model takes.
        num_classes: number of classes of the model.
        class_names: their names; images of a class with another name, or of any where None, have no label.
        levels: number of grey levels that the model has, to which finer ones are reduced; None for ``native_levels``.
        eval_batch_size: images in a batch.
        native_levels: see :class:`~pixelgan_lightning.datamodules.image_tensor.ImageTensorDataModule`, as the others.
        value_range: the stored values that stand for black and for white.
        background: what lies under transparent parts.
        fit: how an image that is no square becomes one.

    Raises:
        ConfigurationError: at setup, images that cannot be read or made into ``image_shape``.
    """

    predict_split_names = ("images",)
    argument = "images"
    """What the path is called in messages."""

    def __init__(
        self,
        path: str,
        image_shape: tuple[int, int, int],
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        levels: int | None = None,
        eval_batch_size: int = 250,
        native_levels: int = 256,
        value_range: ValueRange | None = None,
        background: float = 1.0,
        fit: Fit = "crop",
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        side = height if height == width else None
        self.conversion = Conversion(
            native_levels, channels if channels in (1, 3) else None, value_range, background, side, fit
        )
        self.path, self.image_shape, self.num_classes = path, (channels, height, width), num_classes
        self.class_names, self.eval_batch_size = class_names, eval_batch_size
        self.levels = levels or native_levels
        self._read: ImageSet | None = None

    def setup(self, stage: str | None = None) -> None:
        self.images()

    def images(self) -> Tensor:
        """``[N, C, H, W]`` uint8, in ``0..levels-1``."""
        if self._read is None:
            try:
                self.conversion.require_usable()
                found = self._found(Path(self.path))
                shape = tuple(found.images.shape[1:])
                if shape != self.image_shape:
                    raise ConfigurationError(f"its images are {list(shape)}: allowed are {list(self.image_shape)}")
            except ConfigurationError as error:
                raise ConfigurationError(f"{self.argument}={self.path!r} is not usable: {error}") from error
            self._read = found
        return quantise(self._read.images, self.conversion.levels, self.levels)

    def _found(self, path: Path) -> ImageSet:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            pictures = read_pictures([(path, str(path))], 1, str(path), self.conversion)
            return ImageSet(pictures, np.array([UNKNOWN]), (path.name,))
        return joined(list(read_image_sets(path, self.conversion).values()))

    def labels(self) -> Tensor:
        """``[N]`` int64, -1 where an image has no label that the model knows."""
        assert self._read is not None
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        return torch.tensor([numbers.get(str(name), -1) for name in self._read.labels])

    def image_name(self, source: str, row: int) -> str | None:
        """Where in the folder an image lies; None in a file of arrays."""
        assert self._read is not None
        return None if self._read.names is None else self._read.names[row]

    def predict_dataloader(self) -> list[EvalLoader]:
        """One loader of all images."""
        images = self.images()
        trainer = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        rows = torch.arange(len(images))
        return [
            EvalLoader(
                images,
                self.labels(),
                rows,
                self.eval_batch_size,
                levels=self.levels,
                rank=rank,
                world_size=world_size,
            )
        ]
