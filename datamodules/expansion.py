"""Bounds on what data may take in memory: files made to fill it are refused, and so are more images than fit."""

from __future__ import annotations

import os
from pathlib import Path

from pixelgan_lightning.errors import ConfigurationError

FREE_BYTES = 2**28
"""What any file may hold, 256 MiB."""

MAX_RATIO = 200
"""Beyond that: how many bytes in memory for each byte of the file. Pictures do not get that small without loss, while
compressed zeros get a thousand times smaller."""

COPIES = 2
"""How often an image is in memory: as it was read, and with the levels that the model sees."""


def require_sane_expansion(held: int, stored: int) -> None:
    """Refuse data that say to be far larger than their file.

    Args:
        held: bytes in memory, as the file itself says.
        stored: bytes of the file.

    Raises:
        ConfigurationError: ``held`` is more than any file may hold and more than ``MAX_RATIO`` times the file.
    """
    if held > max(FREE_BYTES, MAX_RATIO * stored):
        raise ConfigurationError(
            f"it says that its {stored} bytes hold {held}: allowed are {MAX_RATIO} times as many as the file has"
        )


def require_memory(images: int, bytes_each: int) -> None:
    """Refuse images that would fill the memory, before they are read.

    Args:
        images: how many there are.
        bytes_each: what one of them takes, as it is read.

    Raises:
        ConfigurationError: they take more than is free.
    """
    free, needed = free_memory(), COPIES * images * bytes_each
    if free is not None and needed > free:
        raise ConfigurationError(
            f"its {images} images take {needed / 1e9:.2f} GB in memory, where {free / 1e9:.2f} GB are free and a "
            f"gigabyte holds {10**9 // (COPIES * bytes_each)}: allowed are fewer or smaller ones (side, channels)"
        )


def free_memory() -> int | None:
    """Bytes that can still be used without swapping, in the container too; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics["inactive_file"]))
    except (OSError, KeyError, ValueError):  # no container, or none with a limit
        pass
    return max(free, 0)
