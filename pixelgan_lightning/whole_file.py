"""Writing files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixelgan_lightning.errors import RunError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, in the folder of ``path``; the file gets the name ``path`` once the block has ended well.

    Whoever reads ``path`` meanwhile sees the former file or none, and several writers never share an unfinished one.
    Folders that are missing are made.

    Raises:
        RunError: the file cannot be written: the disk is full, the folder is write-protected.
    """
    unfinished: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        unfinished = Path(name)
        yield unfinished
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)  # made for the owner only, as temporary files are
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
