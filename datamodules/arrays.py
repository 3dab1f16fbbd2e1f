"""Images and labels in ``.npz`` and ``.pt`` files, in the forms that people store them in."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from pixelgan_lightning.datamodules.base import Split
from pixelgan_lightning.datamodules.conversion import (
    Conversion,
    seen_range,
    to_channels,
    to_levels,
    to_square,
    usual_range,
)
from pixelgan_lightning.datamodules.expansion import require_memory, require_sane_expansion
from pixelgan_lightning.datamodules.image_sets import ImageSet, ImageSets
from pixelgan_lightning.datamodules.labels import label_names
from pixelgan_lightning.errors import ConfigurationError

Role = tuple[Split, Literal["images", "labels"]]

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the sets are called, in the names of arrays and of folders."""

_CONTENT: dict[str, Literal["images", "labels"]] = {
    **dict.fromkeys(("images", "x", "data", "arr_0"), "images"),
    **dict.fromkeys(("labels", "y", "target", "targets", "arr_1"), "labels"),
}


def read_arrays(path: Path, conversion: Conversion) -> ImageSets:
    """The sets in a file.

    Args:
        path: ``.npz``, or ``.pt`` with a dictionary of tensors (labels may be a list of texts or numbers).
        conversion: what the images are made into.

    Raises:
        ConfigurationError: it cannot be read, or holds no images.
    """
    content = _read(path)
    sets: ImageSets = {}
    for split in ("train", "val", "test"):
        if (split, "images") in content:
            labels = content.get((split, "labels"))
            images = images_from_array(content.pop((split, "images")), conversion)
            sets[split] = ImageSet(images, label_names(labels, len(images)))
    return sets


def images_from_array(values: np.ndarray, conversion: Conversion) -> Tensor:
    """Images as levels.

    Args:
        values: ``[N, H, W]``, ``[N, C, H, W]`` or ``[N, H, W, C]``: channels come last where that dimension is 4 at
            most and the second is not. Truth values; integers below the number of levels; 16-bit unsigned integers,
            scaled from 0 and 65535; floating-point numbers from 0 to 1; others with a ``value_range``.
        conversion: what is wanted.

    Returns:
        ``[N, C, H, W]`` uint8.

    Raises:
        ConfigurationError: they are of another shape or in another range.
    """
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or 0 in values.shape:
        raise ConfigurationError(
            f"its images are {list(values.shape)}: allowed are [N, H, W], [N, C, H, W] and [N, H, W, C]"
        )
    if values.shape[1] > 4 >= values.shape[3]:
        values = np.moveaxis(values, 3, 1)
    images = torch.from_numpy(np.ascontiguousarray(_as_levels(values, conversion)))
    if conversion.channels is not None:
        if images.shape[1] > 4:
            raise ConfigurationError(
                f"its images have {images.shape[1]} channels: allowed are 1 to 4 to be converted to channels="
                f"{conversion.channels}"
            )
        images = to_channels(images, conversion.channels, conversion.background_level)
    elif images.shape[1] in (2, 4):
        rank_zero_info(
            f"images with {images.shape[1]} channels are read as they are; channels={images.shape[1] - 1} takes the "
            "last channel as opacity and lays them over the background"
        )
    if conversion.side is not None:
        images = to_square(images, conversion.side, conversion.fit, conversion.background_level)
    return images


def _as_levels(values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """uint8, of the same shape."""
    kind, levels = values.dtype.kind, conversion.levels
    if kind not in "biuf":
        raise ConfigurationError(f"its images are {values.dtype}: allowed are numbers")
    try:
        if conversion.value_range is not None:
            return to_levels(values, conversion.value_range, levels)
        if kind in "bf":
            return to_levels(values, (0, 1), levels)
        if values.dtype == np.uint16 and values.max() > 255:
            return to_levels(values, (0, 65535), levels)
    except ConfigurationError as error:
        raise ConfigurationError(f"its images are {error}") from error
    if values.dtype == np.uint16:
        raise ConfigurationError(
            f"its images are {seen_range(values)}: allowed are brighter ones (65535 is white){usual_range(values)}"
        )
    if values.min() < 0 or values.max() >= levels:
        raise ConfigurationError(
            f"its images are {seen_range(values)}: allowed are levels 0 to {levels - 1}{usual_range(values)}"
        )
    return values.astype(np.uint8)


# --- files ------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[Role, np.ndarray]:
    """The arrays that are images or labels, as they are in the file."""
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        return _read_pt(path)
    except ConfigurationError:
        raise
    # What the readers make of files that are missing, damaged or hold other objects than numbers.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        what = " ".join((str(error) or type(error).__name__).split())
        raise ConfigurationError(f"it is missing or damaged ({what}): allowed are .npz, .pt and folders") from error
    except pickle.UnpicklingError as error:
        raise ConfigurationError("it is damaged or holds more than tensors: allowed are tensors only") from error


def _read_npz(path: Path) -> dict[Role, np.ndarray]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ConfigurationError("it is one array: allowed is an archive, as numpy.savez writes it")
    with loaded as archive:
        held = _unpacked_bytes(path)
        require_sane_expansion(held, path.stat().st_size)
        require_memory(1, held)
        return {role: _native(archive[name]) for role, name in _roles(archive.files).items()}


def _read_pt(path: Path) -> dict[Role, np.ndarray]:
    if zipfile.is_zipfile(path):  # else it is in the old format of torch.save, which is not compressed
        require_sane_expansion(_unpacked_bytes(path), path.stat().st_size)
    require_memory(1, path.stat().st_size)
    content = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(content, dict):
        raise ConfigurationError(f"it holds a {type(content).__name__}: allowed is a dictionary with 'images'")
    arrays = {}
    for role, name in _roles(content).items():
        value = content[name]
        if role[1] == "labels" and isinstance(value, list) and all(isinstance(label, str | int) for label in value):
            value = np.array(value)
        elif not isinstance(value, Tensor):
            raise ConfigurationError(f"{name!r} is a {type(value).__name__}: allowed are tensors")
        else:
            require_sane_expansion(value.nbytes, path.stat().st_size)  # a view may repeat one value for ever
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        arrays[role] = value
    return arrays


def _unpacked_bytes(path: Path) -> int:
    """What a ZIP archive says it holds; its readers take no more than that. Names that lead out of it are refused."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise ConfigurationError(f"it has a file {name!r}: allowed are names that stay in the archive")
        return sum(member.file_size for member in archive.infolist())


def _native(values: np.ndarray) -> np.ndarray:
    """In the byte order of this machine, which is all that torch reads."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def _roles(names: Iterable[Any]) -> dict[Role, Any]:
    """Which array is what; arrays of other names are left alone."""
    found: dict[Role, Any] = {}
    seen = list(names)
    for name in seen:
        role = _role(str(name))
        if role is None:
            continue
        if found.get(role) == role[1]:  # 'images' beside 'data'
            continue
        if role in found and name != role[1]:
            raise ConfigurationError(f"it has {found[role]} and {name}: allowed is one array of {role[1]} for a set")
        found[role] = name
    if not any(content == "images" for _, content in found):
        raise ConfigurationError(
            f"it has {', '.join(map(str, seen)) or 'nothing'}: allowed is an array 'images' (or x_train, train_images)"
        )
    for split, content in found:
        if content == "labels" and (split, "images") not in found:
            raise ConfigurationError(f"it has {found[split, content]} without images: allowed are both or none")
    return found


def _role(name: str) -> Role | None:
    """What an array is by its name: ``images``, ``x_train``, ``train_images`` and the like."""
    words = name.lower().split("_")
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    content = _CONTENT.get("_".join(word for word in words if word not in SPLIT_WORDS))
    if content is None or len(splits) > 1:
        return None
    return (splits[0] if splits else "train", content)
