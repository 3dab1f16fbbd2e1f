"""Data sets of images for the ``datasets`` library: from the Hugging Face Hub, Parquet files or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from pixelgan_lightning.datamodules.arrays import SPLIT_WORDS, images_from_array
from pixelgan_lightning.datamodules.base import Source, Split
from pixelgan_lightning.datamodules.conversion import Conversion, Fit, ValueRange
from pixelgan_lightning.datamodules.image_sets import ImageSet, ImageSets, ImageSetsDataModule, Options
from pixelgan_lightning.datamodules.labels import label_names
from pixelgan_lightning.datamodules.pictures import read_pictures
from pixelgan_lightning.errors import ConfigurationError

PICKLES = ("pandas",)
"""Formats of the library whose files run code; its first releases that are allowed read them without a word."""


class HuggingFaceDataModule(ImageSetsDataModule):
    """Images and labels from two columns of a data set of the ``datasets`` library (``pip install '.[hf]'``).

    Its split "train" (or its only one) is for training, "validation" (or "valid", "val") for validation and "test" for
    testing; without one for validation ``val_fraction`` of the training images are. Others are not used. Shape and
    classes follow from the training data, which is therefore read, and downloaded where it has to be, when the data
    module is made. Data sets with code of their own are refused by the library.

    Args:
        path: name on the Hub, or a folder with Parquet, Arrow or picture files.
        image_column: pictures (:class:`~pixelgan_lightning.datamodules.pictures.PictureReader` has what is read) or
            arrays (:func:`~pixelgan_lightning.datamodules.arrays.images_from_array`).
        label_column: classes, text or whole numbers (:func:`~pixelgan_lightning.datamodules.labels.label_names`), empty
            or -1 for an image without label; None: no image has one.
        options: further arguments of ``datasets.load_dataset``: ``{"name": ...}`` for a configuration, ``revision``,
            ``data_dir``, ``cache_dir``.
        channels: 1 (grey) or 3 (colours) to convert the images, None to take them as they are.
        value_range: the stored values that stand for black and for white; None for what their type says.
        background: what lies under transparent parts and beside padded images, from 0 (black) to 1 (white).
        side: height and width that images are made to have; None for images that are of one size.
        fit: how an image that is no square becomes one, ``"crop"`` or ``"pad"``.
        kwargs: see :class:`~pixelgan_lightning.datamodules.image_sets.ImageSetsDataModule`.

    Raises:
        ConfigurationError: an argument is not usable, the library is not there, or the data set cannot be read.
    """

    native_levels = 256

    def __init__(
        self,
        path: str,
        *,
        image_column: str = "image",
        label_column: str | None = "label",
        options: Options | None = None,
        channels: int | None = None,
        value_range: ValueRange | None = None,
        background: float = 1.0,
        side: int | None = None,
        fit: Fit = "crop",
        **kwargs: Any,
    ) -> None:
        self.conversion = Conversion(256, channels, value_range, background, side, fit)
        self.conversion.require_usable()
        self.path, self.image_column, self.label_column = path, image_column, label_column
        self.options = options or {}
        self._splits = self._open()
        self.describe_training()
        names = self._class_label_names(self._splits["train"])
        if names and self.class_names:  # in their own order
            self.class_names = tuple(name for name in names if name in self.class_names)
        if "test" not in self._splits:
            self.predict_split_names = ("train", "val")
        super().__init__(**kwargs)

    def origin(self, source: Source) -> str:
        """Name or place of the data set."""
        return f"path={self.path!r}"

    def read_sets(self, source: Source) -> ImageSets:
        """The images of a source.

        Raises:
            ConfigurationError: they cannot be read, or there are no test images.
        """
        wanted: tuple[Split, ...] = ("train", "val") if source == "train" else ("test",)
        sets: ImageSets = {split: self._read(self._splits[split]) for split in wanted if split in self._splits}
        if not sets:
            raise ConfigurationError("it has no test images: allowed are training, validation and prediction")
        return sets

    def _open(self) -> dict[Split, Any]:
        try:
            import datasets
        except ImportError as error:
            raise ConfigurationError(
                f"path={self.path!r} needs the library datasets, which is not there: allowed is pip install datasets"
            ) from error
        if self.path in PICKLES:
            raise ConfigurationError(
                f"path={self.path!r} is not usable: pickles can run code; allowed are other formats"
            )
        try:
            found = datasets.load_dataset(self.path, **self.options)
        except Exception as error:  # of the Hub, of files, of options: it has no class of errors of its own
            what = " ".join(str(error).split()) or type(error).__name__
            raise ConfigurationError(f"path={self.path!r}, options={self.options} is not usable: {what}") from error
        if not isinstance(found, dict):
            raise ConfigurationError(
                f"options={self.options} is not usable: allowed are data sets with all their splits"
            )
        splits = {SPLIT_WORDS[name]: content for name, content in found.items() if name in SPLIT_WORDS}
        if len(found) == 1:
            splits = {"train": next(iter(found.values()))}
        if "train" not in splits:
            raise ConfigurationError(
                f"path={self.path!r} is not usable: it has splits {', '.join(found)}: allowed is a split 'train'"
            )
        if unused := [name for name in found if len(found) > 1 and name not in SPLIT_WORDS]:
            rank_zero_info(f"{self.path}: not used are {', '.join(unused)}")
        return splits

    def _read(self, table: Any) -> ImageSet:
        import datasets

        for argument, column in (("image_column", self.image_column), ("label_column", self.label_column)):
            if column is not None and column not in table.column_names:
                raise ConfigurationError(
                    f"{argument}={column!r} is unknown: allowed are {', '.join(table.column_names)}"
                )
        if isinstance(table.features[self.image_column], datasets.Image):
            pictures = table.select_columns([self.image_column])
            pictures = pictures.cast_column(self.image_column, datasets.Image(decode=False))
            names: list[str | None] = []
            images = read_pictures(self._files(pictures, names), len(table), self.path, self.conversion)
            found = None if None in names else tuple(map(str, names))
        else:
            stored = table.select_columns([self.image_column]).with_format("numpy")[:][self.image_column]
            images, found = images_from_array(np.asarray(stored), self.conversion), None
        return ImageSet(images, self._labels(table), found)

    def _files(self, pictures: Any, names: list[str | None]) -> Iterator[tuple[Path | bytes, str]]:
        """The pictures one by one; ``names`` gets what they are called."""
        for row, content in enumerate(pictures):
            stored: dict[str, Any] = content[self.image_column] or {}
            inside: bytes | None = stored.get("bytes")
            path: str | None = stored.get("path")
            if inside is None and path is None:
                raise ConfigurationError(f"row {row} has no image: allowed are data sets with one in each row")
            names.append(None if path is None else _short(path, self.path))
            yield (Path(str(path)) if inside is None else inside), path or f"row {row}"

    def _labels(self, table: Any) -> np.ndarray:
        if self.label_column is None:
            return label_names(None, len(table))
        labels = table[:][self.label_column]
        classes = self._class_label_names(table)
        if classes:
            return np.array(["" if label is None or label < 0 else classes[label] for label in labels], dtype=str)
        if any(isinstance(label, str) for label in labels):
            return label_names(np.array([label or "" for label in labels], dtype=str), len(table))
        return label_names(np.array([-1 if label is None else label for label in labels]), len(table))

    def _class_label_names(self, table: Any) -> list[str]:
        """The names of the classes, where the data set has them."""
        return getattr(table.features.get(self.label_column), "names", None) or []


def _short(path: str, folder: str) -> str:
    """The path from the folder of the data set, if it is in there."""
    try:
        return Path(path).resolve().relative_to(Path(folder).resolve()).as_posix()
    except ValueError:
        return Path(path).name
