"""Checkpoint files that are whole or not there."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.cloud_io import get_filesystem
from pytorch_lightning.plugins.io import TorchCheckpointIO

from pixelgan_lightning.errors import ConfigurationError, RunError

UNFINISHED = ".unfinished"
"""Name of the file that a checkpoint is written to before it gets its own; the next one to be written replaces it."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on the disk, and moves it there.

    A process that is killed, or a disk that is full, never leaves half a checkpoint and never destroys the one before.
    Files are read with ``weights_only=True``: code in a checkpoint is refused, not run. Pass an instance to
    ``Trainer(plugins=...)``; the command line does so by itself. Paths that are not local are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` (tensors and plain containers) to ``path``.

        Raises:
            RunError: the file cannot be written; what was at ``path`` is still there.
        """
        if storage_options is not None or not _is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        unfinished = target.with_name(UNFINISHED)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
            _sync_folder(target.parent)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            size = buffer.getbuffer().nbytes / 2**20
            raise RunError(
                f"the checkpoint {target} ({size:.1f} MiB) cannot be written: {error.strerror or error}; earlier "
                "checkpoints are untouched"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The content of a checkpoint.

        Raises:
            ConfigurationError: there is no such file, it is damaged, or it holds code (``weights_only`` must not be
                False).
        """
        if weights_only is False:
            raise ConfigurationError("weights_only=False is not usable: allowed is True, code is not run")
        try:
            content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:  # unpickling raises anything
            raise unreadable(path, error) from error
        if not isinstance(content, dict) or "state_dict" not in content:
            raise ConfigurationError(f"ckpt_path={path} is not usable: it has no state_dict; allowed are checkpoints")
        return content


def unreadable(path: str | Path, error: Exception, argument: str = "ckpt_path") -> ConfigurationError:
    """What to say about a file that ``torch.load`` gave up on."""
    first_line = str(error).strip().partition("\n")[0]
    return ConfigurationError(
        f"{argument}={path} is not usable: allowed are checkpoints of this model ({type(error).__name__}: {first_line})"
    )


def _is_local(path: str | Path) -> bool:
    protocol = get_filesystem(path).protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file survive a power failure, where folders can be opened (POSIX)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot
    finally:
        os.close(descriptor)


__all__ = ["UNFINISHED", "AtomicCheckpointIO", "unreadable"]
