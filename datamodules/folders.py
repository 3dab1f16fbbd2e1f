"""Folders of pictures: ``CLASS/name.png``, or ``train/CLASS/name.png`` with ``val`` and ``test`` beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from pixelgan_lightning.datamodules.arrays import SPLIT_WORDS
from pixelgan_lightning.datamodules.base import Split
from pixelgan_lightning.datamodules.conversion import Conversion
from pixelgan_lightning.datamodules.image_sets import ImageSet, ImageSets
from pixelgan_lightning.datamodules.labels import UNKNOWN
from pixelgan_lightning.datamodules.pictures import SUFFIXES, read_pictures
from pixelgan_lightning.errors import ConfigurationError

_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir", "icon\r")
"""What systems leave in folders, in lower case; names that begin with a dot are theirs, too."""


def read_folder(folder: Path, conversion: Conversion) -> ImageSets:
    """The pictures in a folder and the folders in it.

    Where the folders in it are called train, val (or valid, validation) and test, train among them, they are the sets;
    else the folder is one set. In a set a folder is a class, with pictures at any depth; pictures beside the classes
    have no label. What systems leave in folders (``Thumbs.db``, ``.DS_Store``, ``desktop.ini``, ``__MACOSX``) is passed
    over, and said once.

    Args:
        folder: where to look.
        conversion: what the pictures are made into.

    Raises:
        ConfigurationError: there is nothing, something else than pictures, or a picture that is refused.
    """
    passed_over: set[Path] = set()
    parts = _sets(folder, passed_over)
    found = {split: _pictures(part, passed_over) for split, part in parts.items()}
    if passed_over:
        counts = Counter(path.name for path in passed_over)
        names = ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
        rank_zero_info(f"{folder}: passed over {names}")
    if not sum(map(len, found.values())):
        raise ConfigurationError("it is empty: allowed is a folder with pictures")
    paths = [path for pictures in found.values() for path, _ in pictures]
    images = read_pictures([(path, str(path)) for path in paths], len(paths), str(folder), conversion)
    parts_of_images = iter(images.split([len(pictures) for pictures in found.values()]))
    return {
        split: ImageSet(
            next(parts_of_images),
            np.array([label for _, label in pictures], dtype=str),
            tuple(path.relative_to(folder).as_posix() for path, _ in pictures),
        )
        for split, pictures in found.items()
    }


def _sets(folder: Path, passed_over: set[Path]) -> dict[Split, Path]:
    entries = list(_entries(folder, passed_over))
    folders = {path.name: path for path in entries if path.is_dir()}
    splits = {SPLIT_WORDS.get(name.lower()): path for name, path in folders.items()}
    if None in splits or "train" not in splits or len(splits) < len(folders):
        return {"train": folder}
    loose = [path.name for path in entries if not path.is_dir()]
    if any(Path(name).suffix.lower() in SUFFIXES for name in loose):
        raise ConfigurationError(f"{loose[0]} lies beside {', '.join(folders)}: allowed are pictures within these")
    order: tuple[Split, ...] = ("train", "val", "test")
    return {split: splits[split] for split in order if split in splits}


def _pictures(folder: Path, passed_over: set[Path]) -> list[tuple[Path, str]]:
    """Paths and labels, those with label first, class by class."""
    entries = list(_entries(folder, passed_over))
    found = []
    for path in entries:
        if path.is_dir():
            pictures = list(_below(path, passed_over))
            if not pictures:
                raise ConfigurationError(f"class {path.name!r} is empty: allowed are classes with an image or more")
            found += [(picture, path.name) for picture in pictures]
    found += [(path, UNKNOWN) for path in entries if not path.is_dir()]
    for path, _ in found:
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigurationError(f"{path} is no picture: allowed are {', '.join(SUFFIXES)}")
    return found


def _below(folder: Path, passed_over: set[Path]) -> Iterator[Path]:
    for path in _entries(folder, passed_over):
        if path.is_dir():
            yield from _below(path, passed_over)
        else:
            yield path


def _entries(folder: Path, passed_over: set[Path]) -> Iterator[Path]:
    """What lies in a folder, in the order of the names; the system's own files go into ``passed_over``."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _SYSTEM:
            passed_over.add(path)
        else:
            yield path
