"""``pixelgan compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pixelgan_lightning.commands.arguments import add_allow, add_device, add_draws, draw, integer, load_model
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.files.image_files import PICTURE, check_destination, write
from pixelgan_lightning.files.run_folder import run_of
from pixelgan_lightning.messages import say
from pixelgan_lightning.random import keyed_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="CKPT", help="checkpoints, exported folders, pretrained names")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture")
    parser.add_argument("--titles", metavar="A,B,...", help="one for each model (default: its run folder or name)")
    parser.add_argument(
        "--side", type=integer(1), default=8, help="each model has side * side samples (default: %(default)s)"
    )
    add_allow(parser)
    add_device(parser)
    add_draws(parser)


def run(arguments: argparse.Namespace) -> None:
    """Put samples of several models side by side in one picture, for example PixelCNN, autoencoder and PixelGAN."""
    out = check_destination(arguments.out, PICTURE)
    titles = arguments.titles.split(",") if arguments.titles else [_title(name) for name in arguments.models]
    if len(titles) != len(arguments.models):
        raise ConfigurationError(
            f"titles={arguments.titles} is not usable: allowed are {len(arguments.models)}, one for each model"
        )
    panels = []
    for name in arguments.models:
        model = load_model(name, arguments)
        codes = model.prior.sample(arguments.side**2, keyed_generator("codes", arguments.seed))
        panels.append(draw(model, codes, arguments))
    shapes = {tuple(panel.shape[-2:]) for panel in panels}
    if len(shapes) > 1:
        raise ConfigurationError(f"models with images of sizes {sorted(shapes)} are not usable: allowed is one size")
    write(out, figures.global_local(panels, titles))
    say(f"{len(panels)} models: {out}")


def _title(name: str) -> str:
    path = Path(name)
    return run_of(path).resolve().name if path.is_file() else path.name
