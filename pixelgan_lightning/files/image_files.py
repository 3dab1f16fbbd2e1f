"""Images and codes in files: what the commands read and write."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.whole_file import whole_file

PICTURE, ARRAYS = ".png", ".npz"


def check_destination(path: Path, *suffixes: str) -> Path:
    """``path``, if a file with one of the ``suffixes`` can be written there.

    Raises:
        ConfigurationError: another suffix, a folder that does not exist or may not be written to.
    """
    if path.suffix not in suffixes:
        raise ConfigurationError(f"out={path} is not usable: allowed are names that end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"out={path} is not usable: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"out={path} is not usable: it cannot be written")
    return path


def write(path: Path, figure: Figure | None = None, **arrays: Any) -> None:
    """Write ``figure`` (.png) or ``arrays`` (.npz); the file has its name only once it is complete.

    Raises:
        RunError: the file cannot be written: the disk is full, for one.
    """
    with whole_file(path) as unfinished:
        if path.suffix == PICTURE:
            assert figure is not None
            figure.savefig(unfinished, format="png", dpi=figure.dpi)
        else:
            with unfinished.open("wb") as file:
                content: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
                np.savez_compressed(file, **content)


def read_codes(path: Path, code_dim: int) -> Tensor:
    """Codes ``[N, code_dim]``, float32: the array ``codes`` (or the only one) of an ``.npz``, or a tensor in a ``.pt``.

    Raises:
        ConfigurationError: no such file, another format, codes of another shape or that are not finite.
    """
    codes = _read_array(path, "codes")
    if codes.dim() != 2 or codes.shape[1] != code_dim or len(codes) == 0:
        raise ConfigurationError(
            f"codes={path} of shape {list(codes.shape)} is not usable: allowed is [N, {code_dim}] with N >= 1"
        )
    codes = codes.float()
    if not codes.isfinite().all():
        raise ConfigurationError(f"codes={path} is not usable: allowed are finite numbers")
    return codes


def read_images(path: Path, image_shape: tuple[int, int, int], levels: int, argument: str = "images") -> Tensor:
    """Images ``[N, C, H, W]`` in [0, 1] with ``levels`` grey levels, to which finer ones are reduced.

    Args:
        path: a ``.png``, a folder of such files (in the order of their names), or an ``.npz`` or ``.pt`` with
            ``images`` ``[N, C, H, W]`` or, with one channel, ``[N, H, W]``, uint8 or floats in [0, 1].
        image_shape: ``(C, H, W)``.
        levels: L, grey levels of the result.
        argument: what the path is called in messages.

    Raises:
        ConfigurationError: no such file, another format, shape or range.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{PICTURE}"))
        if not found:
            raise ConfigurationError(f"{argument}={path} is not usable: the folder has no {PICTURE} files")
        stored = [_read_picture(file, image_shape, argument) for file in found]
        images = torch.stack(stored)
    elif path.suffix == PICTURE:
        images = _read_picture(path, image_shape, argument).unsqueeze(0)
    else:
        images = _read_array(path, "images", argument)
    if images.dim() == 3 and image_shape[0] == 1:
        images = images.unsqueeze(1)
    if images.dim() != 4 or tuple(images.shape[1:]) != image_shape or len(images) == 0:
        raise ConfigurationError(
            f"{argument}={path} of shape {list(images.shape)} is not usable: allowed is "
            f"[N, {', '.join(map(str, image_shape))}] with N >= 1"
        )
    values = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        raise ConfigurationError(f"{argument}={path} is not usable: allowed are uint8 and numbers in [0, 1]")
    return to_levels(values, levels)


def to_levels(values: Tensor, levels: int) -> Tensor:
    """Values in [0, 1] as float32 multiples of ``1 / (levels - 1)``; those that are one already stay what they are.

    Others go to bins of equal width, as :func:`~pixelgan_lightning.datamodules.pixels.quantise` puts them.
    """
    nearest = (values * (levels - 1)).round()
    exact = (values * (levels - 1) - nearest).abs() <= 1e-4
    binned = (values * levels).floor().clamp(max=levels - 1)
    return (torch.where(exact.all(), nearest, binned) / (levels - 1)).float()


def _read_picture(path: Path, image_shape: tuple[int, int, int], argument: str) -> Tensor:
    """``[C, H, W]`` uint8."""
    channels, height, width = image_shape
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ConfigurationError(
            f"{argument}={path} is not usable with {channels} channels: allowed are {ARRAYS} files"
        )
    try:
        with Image.open(path) as picture:
            array = np.array(picture.convert(modes[channels]))
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigurationError(f"{argument}={path} is not usable: {error}") from error
    if array.shape[:2] != (height, width):
        raise ConfigurationError(
            f"{argument}={path} of {array.shape[0]} x {array.shape[1]} pixels is not usable: allowed is "
            f"{height} x {width}"
        )
    return torch.from_numpy(array).view(height, width, channels).permute(2, 0, 1)


def _read_array(path: Path, name: str, argument: str | None = None) -> Tensor:
    argument = argument or name
    if not path.is_file():
        raise ConfigurationError(f"{argument}={path} is not usable: there is no such file")
    try:
        if path.suffix == ARRAYS:
            with np.load(path, allow_pickle=False) as arrays:
                wanted = name if name in arrays.files else arrays.files[0] if len(arrays.files) == 1 else None
                if wanted is None:
                    raise ConfigurationError(
                        f"{argument}={path} is not usable: it has {', '.join(arrays.files)}; allowed is an array {name}"
                    )
                return torch.from_numpy(arrays[wanted])
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=True, map_location="cpu")
            tensor = content.get(name) if isinstance(content, dict) else content
            if isinstance(tensor, Tensor):
                return tensor
            raise ConfigurationError(f"{argument}={path} is not usable: allowed are a tensor and {{'{name}': tensor}}")
    except ConfigurationError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, TypeError, RuntimeError, EOFError, KeyError) as error:
        raise ConfigurationError(f"{argument}={path} is not usable: {type(error).__name__}: {error}") from error
    except Exception as error:  # unpickling raises anything
        raise ConfigurationError(f"{argument}={path} is not usable: {type(error).__name__}") from error
    more = f", {PICTURE} files and folders of them" if name == "images" else ""
    raise ConfigurationError(f"{argument}={path} is not usable: allowed are {ARRAYS} and .pt files{more}")
