"""Codes, arrays and pictures in files: what the commands read and write."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
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


def _read_array(path: Path, name: str) -> Tensor:
    if not path.is_file():
        raise ConfigurationError(f"{name}={path} is not usable: there is no such file")
    try:
        if path.suffix == ARRAYS:
            with np.load(path, allow_pickle=False) as arrays:
                wanted = name if name in arrays.files else arrays.files[0] if len(arrays.files) == 1 else None
                if wanted is None:
                    raise ConfigurationError(
                        f"{name}={path} is not usable: it has {', '.join(arrays.files)}; allowed is an array {name}"
                    )
                return torch.from_numpy(arrays[wanted])
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=True, map_location="cpu")
            tensor = content.get(name) if isinstance(content, dict) else content
            if isinstance(tensor, Tensor):
                return tensor
            raise ConfigurationError(f"{name}={path} is not usable: allowed are a tensor and {{'{name}': tensor}}")
    except ConfigurationError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, TypeError, RuntimeError, EOFError, KeyError) as error:
        raise ConfigurationError(f"{name}={path} is not usable: {type(error).__name__}: {error}") from error
    except Exception as error:  # unpickling raises anything
        raise ConfigurationError(f"{name}={path} is not usable: {type(error).__name__}") from error
    raise ConfigurationError(f"{name}={path} is not usable: allowed are {ARRAYS} and .pt files")
