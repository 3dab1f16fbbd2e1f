"""A user's own images: from a ``.npz`` or ``.pt`` file, a folder of pictures or a table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from pixelgan_lightning.datamodules.arrays import read_arrays
from pixelgan_lightning.datamodules.base import Source
from pixelgan_lightning.datamodules.conversion import Conversion, Fit, ValueRange
from pixelgan_lightning.datamodules.folders import read_folder
from pixelgan_lightning.datamodules.image_sets import ImageSets, ImageSetsDataModule
from pixelgan_lightning.datamodules.tables import read_table
from pixelgan_lightning.errors import ConfigurationError

_ALLOWED = ".npz, .pt, .csv and folders"


class ImageTensorDataModule(ImageSetsDataModule):
    """Images of one's own, with labels for all, some or none of them.

    ``train_path`` is one of

    - ``NAME.npz``: arrays ``images`` and, for labels, ``labels``; with sets of their own ``x_train``, ``y_train``,
      ``x_val``, ``y_val``, ``x_test``, ``y_test``, or ``train_images``, ``train_labels`` and so on
      (:func:`~pixelgan_lightning.datamodules.arrays.images_from_array` has the shapes and values,
      :func:`~pixelgan_lightning.datamodules.labels.label_names` the labels);
    - ``NAME.pt``: a dictionary with tensors of these names, as ``torch.save`` writes it (nothing but tensors, texts and
      numbers is read);
    - a folder: ``CLASS/name.png``, or ``train/CLASS/name.png`` with ``val`` and ``test`` beside it
      (:func:`~pixelgan_lightning.datamodules.folders.read_folder`);
    - ``NAME.csv``: a table with the columns ``path`` and ``label``
      (:func:`~pixelgan_lightning.datamodules.tables.read_table`).

    What pictures are read as is the table of :class:`~pixelgan_lightning.datamodules.pictures.PictureReader`.

    Classes are numbered in the order of their numbers where all their names are numbers, else alphabetically;
    :attr:`class_names` keeps the names. Unlabelled images are trained on, never drawn as labelled ones, and left out
    where labels are counted. :attr:`image_shape` and :attr:`num_classes` follow from the training data, which is
    therefore read when the data module is made. All images are in memory, twice: a gigabyte holds 637,000 grey images
    of 28x28 or 162,000 coloured ones of 32x32, and more than fit are refused before they are read.

    Args:
        train_path: the images for training and validation, and for testing where they are a set of their own there.
        test_path: images for testing from elsewhere, of the same size and with no classes but those of ``train_path``
            (their set "test" where they have one). None, and no test images in ``train_path``: a test is refused.
        val_fraction: share of the images of ``train_path`` that are validation images, drawn with the classes (and the
            images without label) in their proportions. Not used where validation images are a set of their own.
        split_seed: key of that draw.
        native_levels: number of levels of the images as they are stored, at most 256; images that are scaled get that
            many.
        channels: 1 (grey) or 3 (colours) to convert the images, None to take them as they are.
        value_range: the stored values that stand for black and for white, ``[0, 255]`` or ``[-1, 1]`` for example; None
            for what the type of the values says.
        background: what lies under transparent parts and beside padded images, from 0 (black) to 1 (white).
        side: height and width that images are made to have; None for images that are of one size.
        fit: how an image that is no square becomes one: ``"crop"`` cuts its middle out, ``"pad"`` puts background on
            both sides.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`; ``levels`` is the number of levels
            that the model sees.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`; also for data that cannot
            be read or is not as described here.
    """

    def __init__(
        self,
        train_path: str,
        *,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        native_levels: int = 256,
        channels: int | None = None,
        value_range: ValueRange | None = None,
        background: float = 1.0,
        side: int | None = None,
        fit: Fit = "crop",
        **kwargs: Any,
    ) -> None:
        self.conversion = Conversion(native_levels, channels, value_range, background, side, fit)
        self.conversion.require_usable()
        self.train_path, self.test_path, self.native_levels = train_path, test_path, native_levels
        self._own_test: ImageSets = {}
        self.describe_training()
        if test_path is None and not self._own_test:
            self.predict_split_names = ("train", "val")
        elif test_path is not None and not Path(test_path).exists():  # it is read only when needed
            raise ConfigurationError(f"test_path={test_path!r} does not exist: allowed are null, {_ALLOWED}")
        super().__init__(val_fraction=val_fraction, split_seed=split_seed, **kwargs)

    def read_sets(self, source: Source) -> ImageSets:
        """What ``train_path`` or ``test_path`` holds.

        Raises:
            ConfigurationError: there are no test images, or they cannot be read.
        """
        if source == "train":
            sets = read_image_sets(Path(self.train_path), self.conversion)
            if "train" not in sets:
                raise ConfigurationError(f"it has {' and '.join(sets)} images alone: allowed are training images, too")
            if "test" in sets:
                if self.test_path is None:
                    self._own_test = {"test": sets["test"]}
                else:
                    rank_zero_info(f"test images of {self.train_path} are not used: test_path={self.test_path} is")
            return {split: found for split, found in sets.items() if split != "test"}
        if self._own_test:
            return self._own_test
        if self.test_path is None:
            raise ConfigurationError(f"it has no test images: allowed for a test is test_path, one of {_ALLOWED}")
        sets = read_image_sets(Path(self.test_path), self.conversion)
        if "test" not in sets and len(sets) > 1:
            raise ConfigurationError(
                f"it has {' and '.join(sets)} images: allowed are test images, or images of one set"
            )
        return {"test": sets["test"] if "test" in sets else next(iter(sets.values()))}

    def origin(self, source: Source) -> str:
        """The argument that says where the images come from."""
        own = source == "train" or self.test_path is None
        return f"train_path={self.train_path!r}" if own else f"test_path={self.test_path!r}"


def read_image_sets(path: Path, conversion: Conversion) -> ImageSets:
    """The images in a file or folder of any of the forms that :class:`ImageTensorDataModule` reads.

    Raises:
        ConfigurationError: it cannot be read.
    """
    if path.is_dir():
        return read_folder(path, conversion)
    readers = {".npz": read_arrays, ".pt": read_arrays, ".csv": read_table}
    if path.suffix in readers:
        return readers[path.suffix](path, conversion)
    if not path.exists():
        raise ConfigurationError(f"it does not exist: allowed are {_ALLOWED}")
    raise ConfigurationError(f"its name ends in {path.suffix!r}: allowed are {_ALLOWED}")
