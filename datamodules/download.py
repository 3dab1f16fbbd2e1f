"""Fetching published files: over https only, checked before they get their name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.messages import say

SCHEME = "https"
"""The only one that is used: torchvision's functions go on with http where https fails."""


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
        OSError: it cannot be read or written, or only without encryption.
        RuntimeError: the checksum is wrong.
    """
    _require_scheme(file.url)
    say(f"download: {file.url}")
    folder.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.md5(usedforsecurity=False)
    request = Request(file.url, headers={"User-Agent": "pixelgan-lightning"})
    with TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        unfinished = Path(scratch) / file.name
        try:
            with build_opener(_Redirects).open(request, timeout=60) as response, unfinished.open("wb") as out:
                while piece := response.read(2**20):
                    checksum.update(piece)
                    out.write(piece)
        except HTTPException as error:
            raise OSError(f"{file.url}: {error!r}") from error
        if checksum.hexdigest() != file.md5:
            raise RuntimeError(f"{file.url} is corrupt: its MD5 checksum is {checksum.hexdigest()}, not {file.md5}")
        os.replace(unfinished, folder / file.name)


def _require_scheme(url: str) -> None:
    if not url.startswith(f"{SCHEME}://"):
        raise OSError(f"{url} is not usable: allowed is {SCHEME}")


class _Redirects(HTTPRedirectHandler):
    """Follows a server to another address, but not out of the encryption."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        _require_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


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
