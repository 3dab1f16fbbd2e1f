"""What several commands ask for: which model, how to draw from it, and numbers within bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pixelgan_lightning import pretrained
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.random import keyed_generator
from pixelgan_lightning.weights import build, read_checkpoint

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
    add_device(parser)


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
    if arguments.pretrained is not None:
        return PixelGAN.from_pretrained(arguments.pretrained).to(arguments.device)
    return from_checkpoint(arguments.ckpt_path).to(arguments.device)


def from_checkpoint(path: Path) -> PixelGAN:
    """The model in a checkpoint, with averaged weights where the run averaged them."""
    return build(PixelGAN, read_checkpoint(path), f"ckpt_path={path}")


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
    "add_device",
    "add_draws",
    "add_model",
    "device",
    "draw",
    "from_checkpoint",
    "integer",
    "integers",
    "model_of",
    "part_seed",
    "positive",
]
