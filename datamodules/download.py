"""Fetching published files: checked before they get their name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pixelgan_lightning.errors import ConfigurationError


class PublishedFile(NamedTuple):
    """A file as its distributor offers it.

    Attributes:
        url: where it is.
        md5: checksum of the file, hexadecimal.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The last part of the url."""
        return self.url.rpartition("/")[2]


def fetch(file: PublishedFile, folder: Path) -> None:
    """Download ``file`` into ``folder``. It gets its name once its checksum is right, so no half file is ever seen.

    Raises:
        OSError: it cannot be read or written.
        RuntimeError: the checksum is wrong.
    """
    from torchvision.datasets.utils import download_url  # here, because the import takes a second

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        download_url(file.url, scratch, file.name, file.md5)
        os.replace(Path(scratch) / file.name, folder / file.name)


def complete(
    data_dir: str, folder: Path, missing: Callable[[], list[str]], published: Iterable[PublishedFile], download: bool
) -> None:
    """Fetch those of the ``published`` files that are ``missing``, where ``download`` is set.

    Args:
        data_dir: the user's argument, to be named in errors.
        folder: where the files belong.
        missing: names of the files that are needed and not there.
        published: all files of the data set.
        download: whether fetching is allowed.

    Raises:
        ConfigurationError: files are missing and could not be fetched.
    """
    reason = f"download={download}"
    if download and missing():
        try:
            for file in published:
                if file.name in missing():
                    fetch(file, folder)
        except (OSError, RuntimeError) as error:
            reason = "the download failed: " + " ".join(str(error).split())
    if names := missing():
        raise missing_error(data_dir, folder, names, reason)


def missing_error(data_dir: str, folder: Path, names: list[str], reason: str) -> ConfigurationError:
    """Says which files are not there, why, and where they belong."""
    return ConfigurationError(
        f"data_dir={data_dir!r} lacks {', '.join(names)} ({reason}): allowed is a folder with the published files in "
        f"{folder.name}"
    )
