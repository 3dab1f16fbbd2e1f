"""The commands around a trained model: one file each, with ``add_arguments(parser)`` and ``run(arguments)``.

The first line of ``run``'s docstring is the command's help.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

import pixelgan_lightning.datamodules  # noqa: F401  (imported so that short class names resolve in YAML)
from pixelgan_lightning.commands import compare, complete, export, gallery, report, sample
from pixelgan_lightning.errors import ConfigurationError

COMMANDS = {
    "sample": sample,
    "complete": complete,
    "compare": compare,
    "gallery": gallery,
    "export": export,
    "report": report,
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an argument."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def main(args: Sequence[str]) -> None:
    """Run the command named by the first of ``args``.

    Raises:
        ConfigurationError: what was asked for cannot be done.
    """
    name, *rest = args
    command = COMMANDS[name]
    parser = Parser(prog=f"pixelgan {name}", description=summary(name), allow_abbrev=False)
    command.add_arguments(parser)
    command.run(parser.parse_args(rest))


def summary(name: str) -> str:
    """What a command does, in one line."""
    return (COMMANDS[name].run.__doc__ or "").partition("\n")[0]


__all__ = ["COMMANDS", "main", "summary"]
