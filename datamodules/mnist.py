"""MNIST (LeCun, Cortes and Burges), read from the original files, which are downloaded where they are missing."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor

from pixelgan_lightning.datamodules.base import Binarization, ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.download import PublishedFile, fetch
from pixelgan_lightning.datamodules.pixels import area_average
from pixelgan_lightning.errors import ConfigurationError

_FILES: dict[Source, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


_MAX_BYTES = 2**26  # the largest of the files has 45 MiB


class MNISTDataModule(ImageDataModule):
    """MNIST: images 1x28x28 of 256 grey levels, 10 classes.

    Training 50,000, validation 10,000 (the last of the training file), test 10,000 images.

    Args:
        data_dir: folder that holds (or gets) ``MNIST/raw`` with the four IDX files, plain or ``.gz``, the layout
            of torchvision; None for the environment variable ``PIXELGAN_DATA``, or ``data`` where that is not set.
        num_val: number of images at the end of the training file that are validation images.
        side: height and width: 28, or 14 or 7 by averaging squares of 2x2 or 4x4 pixels, rounded to a level. Smaller
            images are another data set, several times cheaper to learn; say so beside every number.
        download: fetch files that are missing.
        binarization: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
    """

    num_classes = 10
    class_names = tuple("0123456789")
    native_levels = 256
    torchvision_name: ClassVar[str] = "MNIST"
    """The class of ``torchvision.datasets`` that knows the checksums of the files, and their folder."""
    url: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist"
    """Where the files are."""

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        num_val: int = 10_000,
        side: int = 28,
        download: bool = True,
        binarization: Binarization = "dynamic",
        **kwargs: Any,
    ) -> None:
        super().__init__(binarization=binarization, **kwargs)
        self.data_dir = os.environ.get("PIXELGAN_DATA", "data") if data_dir is None else data_dir
        if side not in (28, 14, 7):
            raise ConfigurationError(f"side={side} is not usable: allowed are 28, 14 and 7")
        self.num_val, self.download = num_val, download
        self.image_shape = (1, side, side)

    def prepare_data(self) -> None:
        """Download the files where they are missing and ``download`` is set.

        Raises:
            ConfigurationError: files are missing and could not be downloaded.
        """
        if not self._missing():
            return
        reason = f"download={self.download}"
        if self.download:
            import torchvision.datasets  # here, because the import takes a second

            try:
                for name, md5 in getattr(torchvision.datasets, self.torchvision_name).resources:
                    if name.removesuffix(".gz") in self._missing():
                        fetch(PublishedFile(f"{self.url}/{name}", md5), self._raw)
            except (OSError, RuntimeError) as error:
                reason = "the download failed: " + " ".join(str(error).split())
        if missing := self._missing():
            raise self._missing_error(missing, reason)

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """The images ``[N, 1, side, side]`` and labels ``[N]`` of one pair of files.

        Raises:
            ConfigurationError: a file is missing, or is no IDX file of the right kind and length.
        """
        from torchvision.datasets.mnist import read_image_file, read_label_file

        if missing := self._missing():
            raise self._missing_error(missing, "prepare_data has not fetched them")
        tensors = []
        for name, read in zip(_FILES[source], (read_image_file, read_label_file), strict=True):
            path = self._found(name)
            assert path is not None
            try:
                with _unpacked(path) as plain:
                    tensors.append(read(str(plain)))
            except (
                OSError,
                EOFError,
                zlib.error,
                RuntimeError,
                ValueError,
                TypeError,
                KeyError,
                AssertionError,
            ) as error:
                raise ConfigurationError(
                    f"data_dir={str(self.data_dir)!r}: {path} is damaged or no IDX file of unsigned bytes "
                    f"({str(error) or type(error).__name__}): allowed is the file as published, uncompressed or "
                    "with .gz at the end of its name"
                ) from error
        images, labels = tensors
        if images.shape[1:] == (28, 28):  # anything else is left for the check of its shape
            images = area_average(images[:, None], self.image_shape[1])[:, 0]
        return images[:, None], labels

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split: validation is the last ``num_val`` images of the training file."""
        size = len(labels)
        if split == "test":
            return torch.arange(size)
        if not 1 <= self.num_val < size:
            raise ConfigurationError(
                f"num_val={self.num_val} is not usable with {size} images in the training file: allowed are 1 to "
                f"{size - 1}"
            )
        border = size - self.num_val
        return torch.arange(border) if split == "train" else torch.arange(border, size)

    @property
    def _raw(self) -> Path:
        return Path(self.data_dir) / self.torchvision_name / "raw"

    def _missing(self) -> list[str]:
        return [name for pair in _FILES.values() for name in pair if self._found(name) is None]

    def _found(self, name: str) -> Path | None:
        """The file, unpacked or not, if it is there."""
        paths = (self._raw / name, self._raw / f"{name}.gz")
        return next((path for path in paths if path.is_file()), None)

    def _missing_error(self, missing: list[str], reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"data_dir={str(self.data_dir)!r} lacks {', '.join(missing)} ({reason}): allowed is a folder with the four "
            f"IDX files in {self.torchvision_name}/raw"
        )


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary unpacked copy of one that ends in ``.gz``: torchvision reads only plain files."""
    if path.suffix != ".gz":
        yield path
        return
    with TemporaryDirectory() as scratch, gzip.open(path) as packed:
        plain = Path(scratch) / path.stem
        with plain.open("wb") as file:
            while piece := packed.read(2**20):
                if file.tell() + len(piece) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes when unpacked")
                file.write(piece)
        yield plain
