"""``pixelgan export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.model_card import model_card
from pixelgan_lightning.files.run_folder import run_of
from pixelgan_lightning.files.weights import export, read_checkpoint
from pixelgan_lightning.messages import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt_path", type=Path, required=True, metavar="FILE", help="checkpoint of a run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card in Markdown (default: one made of what the run says)"
    )
    parser.add_argument("--float32", action="store_true", help="keep 32 bits a number instead of 16")


def run(arguments: argparse.Namespace) -> None:
    """Write a folder with weights, configuration and model card, for --pretrained and PixelGAN.from_pretrained."""
    checkpoint = arguments.ckpt_path
    stored = read_checkpoint(checkpoint)
    say(f"ckpt_path={checkpoint}: weights {stored.weights}")
    if arguments.card is not None:
        try:
            card = arguments.card.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"card={arguments.card} is not usable: {error}") from error
    else:
        card = model_card(arguments.out.name, stored, run_of(checkpoint))
    export(stored, arguments.out, card, half=not arguments.float32)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    say(f"{size / 1e6:.2f} MB: {arguments.out}")
    if arguments.card is None:
        say(f"complete the model card: {arguments.out / 'README.md'}")
