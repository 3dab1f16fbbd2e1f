"""What several commands ask for: which model, how to draw from it, and numbers within bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pixelgan_lightning import pretrained
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.weights import build, read_checkpoint, read_folder
from pixelgan_lightning.messages import say
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.random import keyed_generator
from pixelgan_lightning.trust import import_for, module_names

BATCH = 250
"""Images drawn at a time, which bounds the memory; a part of what a seed means."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--ckpt_path`` or ``--pretrained``, and ``--device``; see :func:`model_of`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ckpt_path", type=Path, metavar="FILE", help="checkpoint of a run")
    known = ", ".join(pretrained.names())
    which.add_argument(
        "--pretrained",
        metavar="NAME",
        help=f"model that ships with the package ({known or 'none in this version'}), or an exported folder",
    )
    add_allow(parser)
    add_device(parser)


def add_allow(parser: argparse.ArgumentParser) -> None:
    """``--allow``: modules outside of this package whose classes the model may have; see :func:`allowed_modules`."""
    parser.add_argument(
        "--allow", metavar="MODULE,...", help="modules outside of this package whose classes a file may name: code runs"
    )


def allowed_modules(arguments: argparse.Namespace) -> list[str]:
    """The modules of ``--allow``."""
    return module_names(arguments.allow) if arguments.allow else []


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: where images are drawn."""
    parser.add_argument(
        "--device", type=device, default=torch.device("cpu"), help="cpu, cuda or cuda:1 (default: %(default)s)"
    )


def add_draws(parser: argparse.ArgumentParser) -> None:
    """``--seed`` and ``--temperature``; see :func:`draw`."""
    parser.add_argument("--seed", type=integer(0), default=0, help="key of the draws (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=positive, default=1.0, help="divides the pixels' logits (default: %(default)s)"
    )


def model_of(arguments: argparse.Namespace) -> PixelGAN:
    """The model that the options of :func:`add_model` name, on the device that they name."""
    return load_model(arguments.ckpt_path or arguments.pretrained, arguments)


def load_model(name: str | Path, arguments: argparse.Namespace) -> PixelGAN:
    """The model in a checkpoint or folder, or one that ships with the package, with averaged weights if it has some."""
    if Path(name).is_file() or isinstance(name, Path):
        stored, where = read_checkpoint(name), f"ckpt_path={name}"
    else:
        stored, where = read_folder(pretrained.folder(name)), f"pretrained={name}"
    say(f"{where}: weights {stored.weights}")
    try:
        import_for(stored.description, allowed_modules(arguments))
        return build(PixelGAN, stored, where).to(arguments.device)
    except ConfigurationError as error:
        raise ConfigurationError(str(error) if where in str(error) else f"{where} is not usable: {error}") from error


def draw(model: PixelGAN, codes: Tensor, arguments: argparse.Namespace) -> Tensor:
    """Images ``[N, C, H, W]`` on the CPU for codes ``[N, code_dim]``, :data:`BATCH` at a time."""
    parts = enumerate(codes.to(model.device).split(BATCH))
    return torch.cat(
        [model.sample(part, part_seed(arguments.seed, i), arguments.temperature).cpu() for i, part in parts]
    )


def part_seed(seed: int, part: int) -> int:
    """The first part has the seed itself, so that few images are those of :meth:`PixelGAN.sample`."""
    return seed if part == 0 else keyed_generator("part", seed, part).initial_seed()


def device(text: str) -> torch.device:
    """A device that this machine has."""
    try:
        found = torch.device(text)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(f"{text} is not usable: {first_line}; allowed is cpu") from error
    return found


def integer(minimum: int) -> Callable[[str], int]:
    """A type of argument: integers from ``minimum``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not usable: allowed are integers >= {minimum}")
        return value

    return convert


def integers(text: str) -> list[int]:
    """Integers from 0 with commas between."""
    return [integer(0)(part) for part in text.split(",")]


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not usable: allowed are finite numbers > 0")
    return value


__all__ = [
    "BATCH",
    "add_allow",
    "add_device",
    "add_draws",
    "add_model",
    "allowed_modules",
    "device",
    "draw",
    "integer",
    "integers",
    "load_model",
    "model_of",
    "part_seed",
    "positive",
]
