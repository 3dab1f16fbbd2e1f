"""The command line ``pixelgan``: which command is asked for, and one line where it cannot be carried out."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from pixelgan_lightning import commands
from pixelgan_lightning.commands import trainer
from pixelgan_lightning.configuration import help
from pixelgan_lightning.errors import ConfigurationError, RunError
from pixelgan_lightning.files.run_folder import run_folder_scope
from pixelgan_lightning.messages import quiet_libraries
from pixelgan_lightning.numerics.precision import fast_training
from pixelgan_lightning.training.memory import reuse_memory
from pixelgan_lightning.version import __version__


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of ``pixelgan``: one line and status 2 where it cannot do what is asked, 1 where a run fails."""
    reuse_memory()
    fast_training()
    with quiet_libraries(), run_folder_scope():
        try:
            _run([*(sys.argv[1:] if args is None else args)])
        except (ConfigurationError, MisconfigurationException) as error:
            _end(2, str(error), error)
        except RunError as error:
            _end(1, str(error), error)
        except OSError as error:  # whoever writes logs, pictures and tables: the disk is full, a folder is gone
            where = f"{error.filename}: " if error.filename else ""
            _end(1, f"{where}{error.strerror or error}", error)
        except Exception as error:
            if not _restores_a_checkpoint(error):
                raise
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            _end(2, f"ckpt_path is not usable: its content is not what a fit writes ({what})", error)


def _run(args: list[str]) -> None:
    command, *rest = args or [""]
    if command == "--version":
        print(__version__)
    elif command in ("--help", "-h"):
        print(overview())
    elif command in commands.COMMANDS:
        commands.main(args)
    elif command not in trainer.COMMANDS:
        known = ", ".join([*trainer.COMMANDS, *commands.COMMANDS])
        raise ConfigurationError(f"command={command} is not usable: allowed are {known} (see pixelgan --help)")
    elif rest[:1] in (["--help"], ["-h"]) or rest[-1:] in (["--help"], ["-h"]):
        print(help.page(command, trainer.COMMANDS[command], *rest[rest.index("--help") + 1 :][:1]))
    else:
        trainer.run(command, rest)


GROUPS = {
    "Train and measure": {**trainer.COMMANDS},
    "Draw with a trained model": {name: commands.summary(name) for name in ("sample", "complete", "compare")},
    "See and share": {name: commands.summary(name) for name in ("report", "gallery", "export")},
}


def overview() -> str:
    """The page of ``pixelgan --help``: every command in a line."""
    lines = ["usage: pixelgan COMMAND [--NAME VALUE]", "", "PixelGAN autoencoders."]
    for title, members in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<10}{about}" for name, about in members.items())]
    return "\n".join([*lines, "", "pixelgan COMMAND --help lists its options; pixelgan --version"])


def _end(status: int, message: str, error: Exception) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    if dist.is_available() and dist.is_initialized():
        time.sleep(1)  # other processes are about to say the same: without this one they would lose their connection
    raise SystemExit(status) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)


def _restores_a_checkpoint(error: Exception) -> bool:
    """Whether an error comes of handing the content of a checkpoint to the parts of a run."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).stem == "checkpoint_connector" and "restore" in frame.name for frame in frames)


if __name__ == "__main__":
    main()
