"""Street View House Numbers, cropped digits (Netzer et al., 2011), read from the original ``.mat`` files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from pixelgan_lightning.datamodules.base import ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.download import PublishedFile, complete, missing_error
from pixelgan_lightning.datamodules.pixels import area_average
from pixelgan_lightning.datamodules.splits import stratified_order
from pixelgan_lightning.errors import ConfigurationError

_URL = "https://ufldl.stanford.edu/housenumbers"
# The checksums are those of torchvision.datasets.SVHN.
_TRAIN = PublishedFile(f"{_URL}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373")
_EXTRA = PublishedFile(f"{_URL}/extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7")
_TEST = PublishedFile(f"{_URL}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")
_PUBLISHED_SIZE = {_TRAIN: 73_257, _EXTRA: 531_131, _TEST: 26_032}
_MAX_VALUES = 32 * 32 * 3 * max(_PUBLISHED_SIZE.values())


class SVHNDataModule(ImageDataModule):
    """SVHN, cropped digits ("format 2"): images 3x32x32 of 256 levels, 10 classes.

    Training 68,257, validation 5,000 (taken from the training file) and test 26,032 images. Validation images are drawn
    at random with the classes in their proportions; digits of one house number may fall on both sides, as the files do
    not say which belong together.

    A file that already lies there is read whatever number of images it holds; where that is not the published number,
    one line says so. Results on such a file are not comparable with published ones. What is downloaded is checked.

    Args:
        data_dir: folder that holds (or gets) ``SVHN/train_32x32.mat`` and ``SVHN/test_32x32.mat``; None for the
            environment variable ``PIXELGAN_DATA``, or ``data`` where that is not set.
        extra: train on the images of ``SVHN/extra_32x32.mat`` too (531,131 easier ones), without their labels. They
            follow the training file in the count of ``index``.
        num_val: number of images of the training file that are validation images.
        split_seed: key of their draw.
        side: height and width: 32, or 16 or 8 by averaging squares of pixels, rounded to a level. Smaller images are
            another data set, several times cheaper to learn; say so beside every number.
        download: fetch files that are missing.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
    """

    num_classes = 10
    class_names = tuple("0123456789")
    native_levels = 256

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        extra: bool = False,
        num_val: int = 5_000,
        split_seed: int = 0,
        side: int = 32,
        download: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = os.environ.get("PIXELGAN_DATA", "data") if data_dir is None else data_dir
        if side not in (32, 16, 8):
            raise ConfigurationError(f"side={side} is not usable: allowed are 32, 16 and 8")
        self.extra, self.num_val, self.split_seed, self.download = extra, num_val, split_seed, download
        self.image_shape = (3, side, side)
        self._in_training_file = 0

    def prepare_data(self) -> None:
        """Download the files that are missing, where ``download`` is set.

        Raises:
            ConfigurationError: files are missing and could not be downloaded.
        """
        complete(self.data_dir, self._folder, self._missing, self._files, self.download)

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """The images ``[N, 3, side, side]`` and labels ``[N]`` (-1 for extra images) of one split's files.

        Raises:
            ConfigurationError: a file is missing, or does not hold ``X`` uint8 ``[32, 32, 3, N]`` and ``y`` with N
                digits 1 to 10.
        """
        if missing := self._missing():
            raise missing_error(self.data_dir, self._folder, missing, "prepare_data has not fetched them")
        if source == "test":
            return self._read(_TEST)
        images, labels = self._read(_TRAIN)
        self._in_training_file = len(labels)
        if self.extra:
            more, unused = self._read(_EXTRA)
            images, labels = torch.cat([images, more]), torch.cat([labels, torch.full_like(unused, -1)])
        return images, labels

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split: validation is drawn from the training file, by ``split_seed``; extra images are training."""
        if split == "test":
            return torch.arange(len(labels))
        size = self._in_training_file
        if not 1 <= self.num_val < size:
            raise ConfigurationError(
                f"num_val={self.num_val} is not usable with {size} images in the training file: allowed are 1 to "
                f"{size - 1}"
            )
        order = stratified_order(labels[:size], self.split_seed, "split")
        if split == "val":
            return order[: self.num_val].sort().values
        return torch.cat([order[self.num_val :].sort().values, torch.arange(size, len(labels))])

    @property
    def _folder(self) -> Path:
        return Path(self.data_dir) / "SVHN"

    @property
    def _files(self) -> list[PublishedFile]:
        return [_TRAIN, *([_EXTRA] if self.extra else []), _TEST]

    def _missing(self) -> list[str]:
        return [file.name for file in self._files if not (self._folder / file.name).is_file()]

    def _read(self, file: PublishedFile) -> tuple[Tensor, Tensor]:
        from scipy.io import loadmat, whosmat

        path = self._folder / file.name

        def damaged(seen: str) -> ConfigurationError:
            return ConfigurationError(
                f"data_dir={self.data_dir!r}: {path} is damaged or no SVHN file ({seen}): allowed are X uint8 "
                "[32, 32, 3, N] and y [N, 1] with digits 1 to 10"
            )

        try:
            # From the headers alone, before anything is unpacked.
            sizes = {name: math.prod(shape) for name, shape, _ in whosmat(path)}
            if sizes.get("X", 0) > _MAX_VALUES or sizes.get("y", 0) > _MAX_VALUES:
                raise ValueError(f"more than {_MAX_VALUES} values")
            content = loadmat(path, variable_names=["X", "y"])
            images, digits = content["X"], content["y"].ravel()
        except Exception as error:  # the reader raises anything on bytes that are no such file
            raise damaged(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        if images.dtype != np.uint8 or images.shape[:-1] != (32, 32, 3):
            raise damaged(f"X is {images.dtype} {list(images.shape)}")
        if images.shape[-1] != len(digits) or len(digits) == 0:
            raise damaged(f"{images.shape[-1]} images and {len(digits)} digits")
        if not np.isin(digits, np.arange(1, 11)).all():  # not NaN either
            raise damaged(f"digits from {digits.min()} to {digits.max()}")
        if len(digits) != _PUBLISHED_SIZE[file]:
            rank_zero_info(
                f"{type(self).__name__}: found {len(digits)} images in {path}, an unofficial part of the "
                f"{_PUBLISHED_SIZE[file]} that were published"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
        return area_average(pixels, self.image_shape[1]), torch.from_numpy(digits.astype(np.int64) % 10)
