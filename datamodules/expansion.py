"""A bound on what a small file may become in memory: files made to fill it are refused before they are unpacked."""

from __future__ import annotations

from pixelgan_lightning.errors import ConfigurationError

FREE_BYTES = 2**28
"""What any file may hold, 256 MiB."""

MAX_RATIO = 200
"""Beyond that: how many bytes in memory for each byte of the file. Pictures do not get that small without loss, while
compressed zeros get a thousand times smaller."""


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
