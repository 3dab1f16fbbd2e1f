"""Small NORB (LeCun, Huang and Bottou, 2004), read from the original binary-matrix files."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from pixelgan_lightning.datamodules.base import ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.binary_matrix import open_matrix, read_header, read_matrix, read_rows, require_size
from pixelgan_lightning.datamodules.download import PublishedFile, complete, missing_error
from pixelgan_lightning.datamodules.pixels import area_average
from pixelgan_lightning.errors import ConfigurationError

Cameras = Literal["left", "right", "both"]

Kind = Literal["dat", "cat", "info"]

_STEMS: dict[Source, str] = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
_URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small"
_MD5: dict[Source, dict[Kind, str]] = {
    "train": {
        "dat": "66054832f9accfe74a0f4c36a75bc0a2",
        "cat": "23c8b86101fbf0904a000b43d3ed2fd9",
        "info": "51dee1210a742582ff607dfd94e332e3",
    },
    "test": {
        "dat": "e4ad715691ed5a3a5f138751a4ceb071",
        "cat": "5aa791cd7e6016cf957ce9bdb93b8603",
        "info": "a9454f3864d7fd4bb3ea7fc3eb84924e",
    },
}
_FILES = [
    PublishedFile(f"{_URL}/{_STEMS[source]}-{kind}.mat.gz", md5)
    for source in _MD5
    for kind, md5 in _MD5[source].items()
]
_NATIVE_SIDE = 96
_MAX_PAIRS = 24_300  # in each of the files as published
_CHUNK = 512  # stereo pairs held at full size, 9 MB
_FACTORS = {"instance": 10, "elevation": 9, "azimuth": 35, "lighting": 6}  # columns of -info; values are below these
_CHANNELS: dict[Cameras, list[int]] = {"left": [0], "right": [1], "both": [0, 1]}


class NORBDataModule(ImageDataModule):
    """Small NORB: stereo pairs of toys, 256 grey levels, reduced to 32x32 by area averaging; 5 classes.

    Classes are 0 animal, 1 human, 2 aeroplane, 3 lorry, 4 car. The files hold five toys ("instances") of each class,
    others for training (4, 6, 7, 8, 9) than for testing. Validation is one instance of the training file, as pictures
    of one toy on both sides would leak: training 19,440, validation 4,860, test 24,300 pairs.

    The full images, 450 MB for each file, are read once and in pieces; the reduced ones are kept in ``cache_dir``,
    which then serves in place of the ``-dat`` file.

    Args:
        data_dir: folder that holds (or gets) ``smallnorb`` with the six files, each as ``.mat`` or ``.mat.gz``; None
            for the environment variable ``PIXELGAN_DATA``, or ``data`` where that is not set.
        cameras: ``"left"``, ``"right"`` (one channel) or ``"both"`` (two channels, left first).
        side: height and width, a divisor of 96 from 8.
        val_instance: the toy of each class that is for validation.
        cache_dir: folder for the reduced images; None for ``smallnorb`` in ``data_dir``.
        download: fetch files that are missing.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
    """

    num_classes = 5
    class_names = ("animal", "human", "airplane", "truck", "car")
    native_levels = 256

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        cameras: Cameras = "both",
        side: int = 32,
        val_instance: int = 9,
        cache_dir: str | None = None,
        download: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = os.environ.get("PIXELGAN_DATA", "data") if data_dir is None else data_dir
        if cameras not in get_args(Cameras):
            raise ConfigurationError(f"cameras={cameras!r} is unknown: allowed are {', '.join(get_args(Cameras))}")
        if side < 8 or _NATIVE_SIDE % side:
            raise ConfigurationError(f"side={side} is not usable: allowed are 96, 48, 32, 24, 16, 12 and 8")
        self.cameras, self.side, self.val_instance, self.download = cameras, side, val_instance, download
        self.cache_dir = str(self._folder) if cache_dir is None else cache_dir
        self.image_shape = (len(_CHANNELS[cameras]), side, side)
        self._factors: dict[Source, dict[str, Tensor]] = {}

    def prepare_data(self) -> None:
        """Download the files that are missing, where ``download`` is set, and reduce the images.

        Raises:
            ConfigurationError: files are missing and could not be downloaded, are damaged, or the reduced images
                cannot be written.
        """
        complete(self.data_dir, self._folder, self._missing, _FILES, self.download)
        for source in _STEMS:
            self._pairs(source)

    def setup(self, stage: str | None = None) -> None:
        """As in the base; says which toys are for validation."""
        super().setup(stage)
        if stage in ("fit", None):
            rank_zero_info(
                f"{type(self).__name__}: toy {self.val_instance} of {self._instances()} is for validation: "
                f"{len(self.split_indices('train'))} unlabelled pairs are left for training"
            )

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """The reduced images ``[N, 1 or 2, side, side]`` and labels ``[N]`` of one split's files.

        Raises:
            ConfigurationError: a file is missing or damaged, or the files do not fit each other.
        """
        if missing := self._missing((source,)):
            raise missing_error(self.data_dir, self._folder, missing, "prepare_data has not fetched them")
        labels, pairs = self.factors(source)["category"], self._pairs(source)
        if len(labels) != len(pairs):
            raise ConfigurationError(
                f"data_dir={self.data_dir!r}: {_STEMS[source]} has {len(pairs)} pairs and {len(labels)} categories: "
                "allowed are equal numbers"
            )
        return pairs[:, _CHANNELS[self.cameras]].contiguous(), labels

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split: validation is the toys ``val_instance`` of the training file."""
        if split == "test":
            return torch.arange(len(labels))
        instances = self._instances()
        if self.val_instance not in instances or len(instances) < 2:
            raise ConfigurationError(
                f"val_instance={self.val_instance} is not usable: allowed is one of {instances}, the toys of the "
                "training file, of which another must be left"
            )
        chosen = self.factors("train")["instance"] == self.val_instance
        return (chosen if split == "val" else ~chosen).nonzero().flatten()

    def factors(self, source: Source) -> dict[str, Tensor]:
        """What the files say about every pair: rows as counted by ``index``, int64 ``[N]`` each, -1 where unknown.

        Returns:
            ``category`` (0..4), ``instance`` (0..9), ``elevation`` (0..8: 30 to 70 degrees by fives), ``azimuth``
            (0, 2, ..., 34: tens of degrees), ``lighting`` (0..5).

        Raises:
            ConfigurationError: a file is damaged, or the files do not fit each other.
        """
        if source not in self._factors:
            if missing := [name for name in self._missing((source,)) if "-dat" not in name]:
                raise missing_error(self.data_dir, self._folder, missing, "prepare_data has not fetched them")
            category = self._values(source, "cat", ())
            info = self._values(source, "info", (len(_FACTORS),))
            if len(category) != len(info):
                raise ConfigurationError(
                    f"data_dir={self.data_dir!r}: {_STEMS[source]} has {len(category)} categories and {len(info)} rows "
                    "of -info: allowed are equal numbers"
                )
            factors = {"category": category, **dict(zip(_FACTORS, info.unbind(1), strict=True))}
            for name, values in factors.items():
                least, limit = (-1, _FACTORS[name]) if name in _FACTORS else (0, self.num_classes)
                if values.min() < least or values.max() >= limit:
                    raise ConfigurationError(
                        f"data_dir={self.data_dir!r}: {_STEMS[source]} has {name} from {values.min()} to "
                        f"{values.max()}: allowed are {least} to {limit - 1}"
                    )
            if source == "train" and factors["instance"].min() < 0:
                raise ConfigurationError(
                    f"data_dir={self.data_dir!r}: {_STEMS[source]} has pairs of an unknown instance: allowed are known "
                    "ones, by which the validation split is cut"
                )
            self._factors[source] = factors
        return self._factors[source]

    def _instances(self) -> list[int]:
        """The toys of the training file."""
        return self.factors("train")["instance"].unique().tolist()

    # --- files ------------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return Path(self.data_dir) / "smallnorb"

    def _found(self, source: Source, kind: Kind) -> Path | None:
        """The file, unpacked or not, if it is there."""
        plain = self._folder / f"{_STEMS[source]}-{kind}.mat"
        return next((path for path in (plain, plain.with_name(f"{plain.name}.gz")) if path.is_file()), None)

    def _missing(self, sources: Sequence[Source] = ("train", "test")) -> list[str]:
        """Names (ending in .gz, as published) of the files that are needed and not there."""
        return [
            f"{_STEMS[source]}-{kind}.mat.gz"
            for source in sources
            for kind in _MD5[source]
            if self._found(source, kind) is None and not (kind == "dat" and self._cache(source).is_file())
        ]

    def _values(self, source: Source, kind: Kind, row: tuple[int, ...]) -> Tensor:
        """The int32 values ``[N, *row]`` of a small file."""
        path = self._found(source, kind)
        assert path is not None  # missing files were looked for before
        values = read_matrix(path, _MAX_PAIRS * max(1, math.prod(row)))
        if values.dtype != np.dtype("<i4") or values.shape[1:] != row:
            raise ConfigurationError(
                f"{path} is not usable: it has {values.dtype} values {list(values.shape)}: allowed are int32 "
                f"[{', '.join(map(str, ('N', *row)))}]"
            )
        return torch.from_numpy(values.astype(np.int64))

    def _cache(self, source: Source) -> Path:
        return Path(self.cache_dir) / f"{_STEMS[source]}-{self.side}x{self.side}.npz"

    def _pairs(self, source: Source) -> Tensor:
        """Both cameras' reduced images ``[N, 2, side, side]`` uint8, from the cache where it fits the file."""
        path, cache = self._found(source, "dat"), self._cache(source)
        # A copied or replaced file is reduced anew; without the file, what was made of it is taken.
        mark = None if path is None else np.array([path.stat().st_size, path.stat().st_mtime_ns])
        if cache.is_file():
            images, made_of = _read_cache(cache, self.side)
            if mark is None or np.array_equal(mark, made_of):
                return images
        assert path is not None
        assert mark is not None
        images = _reduce(path, self.side)
        _write_cache(cache, images, mark)
        return images


def _reduce(path: Path, side: int) -> Tensor:
    with open_matrix(path) as file:
        dtype, shape = read_header(file)
        if dtype != np.dtype("u1") or shape[1:] != (2, _NATIVE_SIDE, _NATIVE_SIDE):
            raise ConfigurationError(
                f"it has {dtype} values {list(shape)}: allowed are uint8 [N, 2, {_NATIVE_SIDE}, {_NATIVE_SIDE}]"
            )
        require_size(shape, _MAX_PAIRS * 2 * _NATIVE_SIDE**2)
        return torch.cat(
            [area_average(torch.tensor(pairs), side) for pairs in read_rows(file, dtype, shape, chunk=_CHUNK)]
        )


def _read_cache(path: Path, side: int) -> tuple[Tensor, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            images, made_of = content["images"], content["made_of"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigurationError(
            f"{path} is damaged ({str(error) or type(error).__name__}): allowed is to delete it, it is made anew"
        ) from error
    if images.dtype != np.uint8 or images.shape[1:] != (2, side, side):
        raise ConfigurationError(
            f"{path} holds {images.dtype} {list(images.shape)}: allowed is to delete it, it is made anew"
        )
    return torch.from_numpy(images), made_of


def _write_cache(path: Path, images: Tensor, made_of: np.ndarray) -> None:
    """Under its name only once it is whole: a run that is killed, or another process, leaves no half file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".cache-", dir=path.parent) as scratch:
            np.savez(Path(scratch) / path.name, images=images.numpy(), made_of=made_of)
            os.replace(Path(scratch) / path.name, path)
    except OSError as error:
        raise ConfigurationError(
            f"cache_dir={str(path.parent)!r} is not usable ({error.strerror}): allowed is a folder to write into"
        ) from error
