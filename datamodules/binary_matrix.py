"""The binary-matrix format of NORB: a header, then the values, little-endian throughout.

The header is an int32 magic number (the type of the values), an int32 number of dimensions and the dimensions as int32,
always three of them or more: a vector has two further ones, which do not count.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from pixelgan_lightning.errors import ConfigurationError

_TYPES: dict[int, np.dtype] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
_MAX_DIMENSIONS = 8


def read_header(file: BinaryIO) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and dimensions of the matrix in an open file, which is left at the first value.

    Raises:
        ConfigurationError: this is no header of bytes or int32 values.
    """
    magic, dimensions = _integers(file, 2)
    if magic not in _TYPES:
        allowed = " and ".join(f"{known:#x}" for known in _TYPES)
        raise ConfigurationError(f"the magic number is {magic % 2**32:#x}: allowed are {allowed}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ConfigurationError(f"the header says {dimensions} dimensions: allowed are 1 to {_MAX_DIMENSIONS}")
    shape = _integers(file, max(3, dimensions))[:dimensions]
    if min(shape) < 1:
        raise ConfigurationError(f"the header says dimensions {list(shape)}: allowed are numbers >= 1")
    return _TYPES[magic], shape


def _integers(file: BinaryIO, number: int) -> tuple[int, ...]:
    content = file.read(4 * number)
    if len(content) < 4 * number:
        raise ConfigurationError("the file ends within the header: allowed is a whole file")
    return struct.unpack(f"<{number}i", content)


@contextmanager
def open_matrix(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked on the way where its name ends in ``.gz``; every complaint about it names it.

    Raises:
        ConfigurationError: what happens within is one, or comes from a damaged or unreadable file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path} is not usable: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(
            f"{path} is not usable: {str(error) or type(error).__name__}: allowed is a whole file"
        ) from error


def read_rows(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], chunk: int) -> Iterator[np.ndarray]:
    """The values behind the header, at most ``chunk`` rows at a time, ``[<= chunk, *shape[1:]]``.

    Raises:
        ConfigurationError: the file is shorter or longer than its header says.
    """
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    for begin in range(0, shape[0], chunk):
        rows = min(chunk, shape[0] - begin)
        content = file.read(rows * row_bytes)
        if len(content) < rows * row_bytes:
            raise ConfigurationError(
                f"it ends in row {begin + len(content) // row_bytes} of {shape[0]}: allowed is a whole file"
            )
        yield np.frombuffer(content, dtype).reshape(rows, *shape[1:])
    if file.read(1):
        raise ConfigurationError(f"it goes on behind its {shape[0]} rows: allowed is a whole file and nothing more")


def require_size(shape: tuple[int, ...], limit: int) -> None:
    """Refuse a matrix that is larger than expected before it is read: a packed file may hold a thousand times its size.

    Raises:
        ConfigurationError: there are more than ``limit`` values.
    """
    if math.prod(shape) > limit:
        raise ConfigurationError(f"the header says dimensions {list(shape)}: allowed are {limit} values in all")


def read_matrix(path: Path, max_values: int = 2**31) -> np.ndarray:
    """All values of a file of at most ``max_values`` values.

    Raises:
        ConfigurationError: the file cannot be read, is damaged or is of another format, or has more values.
    """
    with open_matrix(path) as file:
        dtype, shape = read_header(file)
        require_size(shape, max_values)
        return np.concatenate(list(read_rows(file, dtype, shape, chunk=100_000)))
