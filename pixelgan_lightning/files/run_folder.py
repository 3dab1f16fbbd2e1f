"""Where a run keeps its files.

A run's folder holds ``config.yaml`` (what ``fit`` was told), ``checkpoints/``, one folder of logs per command (``fit``,
``fit-1`` for a continued fit, ``test``, ...), ``images/``, ``predictions/``, ``results.json`` (of the last test) and,
with Weights & Biases, ``wandb_id.txt``. One process at a time trains there.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.messages import is_first_process, say

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
VARIABLE = "PIXELGAN_RUN_DIR"
"""Tells the processes that a strategy starts which folder the first one has chosen."""

LOCK = ".lock"
"""The file in a run's folder that the process that trains there holds; the system releases it when the process ends."""

OWNER = ".running"
"""Says which process that is."""

_held = ExitStack()


def run_folder(config: Any, command: str) -> Path:
    """The folder of this run: a new one for a new run, that of the checkpoint for what follows from it.

    A fit holds its folder until the end of :func:`run_folder_scope`.

    Raises:
        ConfigurationError: the folder cannot be made, or another process trains in it.
    """
    folder = _choose(config, command)
    if command == "fit" and is_first_process():
        _hold(folder)
    return folder


def _choose(config: Any, command: str) -> Path:
    first = is_first_process()
    if not first and VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    wanted = Path(config.run_dir) if config.run_dir else None
    if config.ckpt_path is not None:
        home = run_of(Path(config.ckpt_path))
        if wanted is None or wanted.resolve() == home.resolve():
            return home
    if wanted is None:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        data = config.data.class_path.rpartition(".")[2].removesuffix("DataModule").lower() or "run"
        wanted = (
            Path(config.trainer.default_root_dir or "runs")
            / f"{data}-{job if job != 'none' else time.strftime('%Y%m%d-%H%M%S')}"
        )
    elif command != "fit":
        return wanted
    return _claim(wanted) if first else wanted


def _claim(wanted: Path) -> Path:
    """Make ``wanted``, or the first of ``wanted-1``, ``wanted-2``, ... that holds no run.

    Making the folder of the checkpoints is what claims it: of several processes only one succeeds.
    """
    number = 0
    while True:
        folder = wanted.with_name(f"{wanted.name}-{number}") if number else wanted
        try:
            (folder / CHECKPOINTS).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigurationError(f"run_dir={wanted} is not usable: {error}") from error
    if number:
        say(f"{wanted} holds an earlier run; this one goes to {folder} (to go on with that one: --ckpt_path last)")
    return folder


def _hold(folder: Path) -> None:
    """Be the one process that trains in ``folder``; then what a killed one has not finished writing can go."""
    lock, owner = FileLock(folder / LOCK), folder / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        first = _owner(owner)
        try:  # workers of a process that was killed end some seconds later
            lock.acquire(timeout=0 if _is_alive(first) else 15)
        except Timeout:
            raise ConfigurationError(
                f"run_dir={folder} is not usable: process {first.get('pid', '?')} on {first.get('host', '?')} trains "
                "there; allowed are another run_dir, and when that process has ended --ckpt_path last"
            ) from None
    except (OSError, NotImplementedError) as error:
        say(f"{folder} cannot be locked ({error}): see to it that no other process trains there")
        return
    _held.callback(lock.release)
    owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
    _held.callback(owner.unlink, missing_ok=True)
    for unfinished in (folder / CHECKPOINTS).glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)


def _owner(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):  # it is only just beginning
        return {}


def _is_alive(process: dict[str, Any]) -> bool:
    if process.get("host") != socket.gethostname():
        return True
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


@contextmanager
def run_folder_scope() -> Iterator[None]:
    """Forget the choice of the folder at the end, and remove it where nothing was written to it."""
    inherited = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        _held.close()
        folder = os.environ.pop(VARIABLE, None)
        if inherited is not None:
            os.environ[VARIABLE] = inherited
        elif folder is not None:
            if not any(path.is_file() and path.name != LOCK for path in Path(folder).rglob("*")):
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                Path("runs").rmdir()


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def checkpoint_file(given: str, run_dir: str | None) -> Path:
    """The file that ``--ckpt_path`` means.

    Raises:
        ConfigurationError: there is none; a run never starts from scratch when it was told to go on.
    """
    if given == "last":
        if run_dir is None:
            raise ConfigurationError("ckpt_path=last is not usable without run_dir: name the run's folder")
        path = Path(run_dir) / CHECKPOINTS / "last.ckpt"
    else:
        path = Path(given)
    if not path.is_file():
        raise ConfigurationError(
            f"ckpt_path={given} is not usable: there is no file {path}; allowed are a checkpoint file, and 'last' "
            "together with run_dir"
        )
    return path


def first_free(folder: Path, stem: str, suffix: str = "") -> str:
    """``stem + suffix``, or the first of ``stem-1``, ``stem-2``, ... that ``folder`` does not have."""
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(1)))
    return next(name + suffix for name in names if not (folder / (name + suffix)).exists())


def place_loggers(loggers: Any, folder: Path, command: str, tags: list[str]) -> None:
    """Let the loggers of a configuration write into the run's folder, each command in its sub-folder.

    ``tags`` are for loggers that take some and were given none.
    """
    version = first_free(folder, command) if is_first_process() else command
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not hasattr(logger, "init_args") or "save_dir" not in logger.init_args:
            continue
        logger.init_args.save_dir = str(folder)
        name = logger.class_path.rpartition(".")[2]
        if name in ("CSVLogger", "TensorBoardLogger"):
            logger.init_args.name, logger.init_args.version = "", version
        elif name in ("WandbLogger", "RunWandbLogger"):
            logger.init_args.save_dir = str(folder.resolve())  # its service may have another working folder
            if logger.init_args.get("name") is None:
                logger.init_args.name = folder.name
            if "tags" in logger.init_args and logger.init_args.tags is None:
                logger.init_args.tags = tags
