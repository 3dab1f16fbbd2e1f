"""What the command line says: one line where something cannot be done, and no noise of libraries."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pixelgan_lightning.errors import ConfigurationError


def is_first_process() -> bool:
    """Whether this is the process that speaks to the user and writes files."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def say(line: str) -> None:
    """One line for the user, from the first process only."""
    if is_first_process():
        print(line, flush=True)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what users can do nothing about: deprecations inside libraries, and advertisements."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addFilter(_no_tips)
    with warnings.catch_warnings():
        for module in (r"jsonargparse", r"pytorch_lightning\.cli", r"pytorch_lightning\.utilities\._pytree"):
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=module)
        # Images are in memory: a loader has nothing to gain from workers. A continued run writes on into its folder.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        try:
            yield
        finally:
            logger.removeFilter(_no_tips)


def _no_tips(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("TPU available", "💡 Tip:"))


def reason(error: BaseException) -> str | None:
    """The message of the :class:`ConfigurationError` that is ``error`` or was wrapped into it by a library."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigurationError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None
