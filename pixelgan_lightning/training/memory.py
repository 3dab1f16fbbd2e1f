"""Memory that training on a CPU uses in every step."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def reuse_memory() -> bool:
    """Let this process keep the memory it frees, for its own next allocations; the command line does so.

    The features of a training step take hundreds of megabytes. The C library gives them back to the system at its end
    and gets them again, page by page, in the next one: up to a quarter of the time of a step (``make bench``
    measures it). The price is that the process stays as large as it once was. On a GPU there is nothing to gain,
    PyTorch keeps that memory by itself.

    Returns:
        Whether it could be set: on Linux with glibc, unless the environment already says how to allocate
        (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES``).
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if sys.platform != "linux" or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    # Older versions take no more than 32 MB here. First: setting either ends glibc's own adaptation of this one.
    mapped = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(mapped and mallopt(_M_TRIM_THRESHOLD, _LARGEST))


__all__ = ["reuse_memory"]
