"""Checkpoint files that are whole or not there."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.cloud_io import get_filesystem
from pytorch_lightning.plugins.io import TorchCheckpointIO

from pixelgan_lightning.errors import ConfigurationError, RunError
from pixelgan_lightning.whole_file import whole_file


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
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with whole_file(target) as unfinished, unfinished.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except RunError as error:
            size = buffer.getbuffer().nbytes / 2**20
            raise RunError(f"a checkpoint of {size:.1f} MiB: {error}; earlier checkpoints are untouched") from error
        _sync_folder(target.parent)

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
        require_whole(path)
        try:
            content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:  # unpickling raises anything
            raise unreadable(path, error) from error
        if not isinstance(content, dict) or "state_dict" not in content:
            raise ConfigurationError(f"ckpt_path={path} is not usable: it has no state_dict; allowed are checkpoints")
        return content


def require_whole(path: str | Path, argument: str = "ckpt_path") -> None:
    """Compare the checksums in a checkpoint with its content, some milliseconds: PyTorch does not look at them.

    Raises:
        ConfigurationError: they differ; the message names the newest checkpoint beside it that is whole.
    """
    if not _is_local(path):
        return
    try:  # what is no archive is refused when it is loaded
        damaged = _damaged_part(path) if zipfile.is_zipfile(path) else None
    except Exception as error:  # damaged archives raise anything
        raise unreadable(path, error, argument) from error
    if damaged is not None:
        raise unreadable(path, ValueError(f"{damaged} has not the content that it was written with"), argument)


def _damaged_part(path: str | Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _is_whole(path: Path) -> bool:
    try:
        return _damaged_part(path) is None
    except Exception:
        return False


def unreadable(path: str | Path, error: Exception, argument: str = "ckpt_path") -> ConfigurationError:
    """What to say about a file that cannot be read, and which checkpoint beside it can."""
    first_line = str(error).strip().partition("\n")[0]
    others: list[Path] = []
    if _is_local(path):
        beside = [other for other in Path(path).parent.glob("*.ckpt") if other.name != Path(path).name]
        others = sorted(beside, key=lambda other: other.stat().st_mtime, reverse=True)
    whole = next((f"; whole is {other}" for other in others if _is_whole(other)), "")
    return ConfigurationError(
        f"{argument}={path} is not usable: allowed are checkpoints of this model ({type(error).__name__}: "
        f"{first_line}){whole}"
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


__all__ = ["AtomicCheckpointIO", "require_whole", "unreadable"]
