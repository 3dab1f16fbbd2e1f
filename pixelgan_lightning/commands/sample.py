"""``pixelgan sample``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pixelgan_lightning.commands.arguments import add_draws, add_model, draw, integer, integers, model_of
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.code_rows import code_rows, number_of_rows
from pixelgan_lightning.files.image_files import ARRAYS, PICTURE, check_destination, read_codes, write
from pixelgan_lightning.messages import say
from pixelgan_lightning.random import keyed_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture or .npz arrays")
    parser.add_argument(
        "--num",
        type=integer(1),
        help="images in each row (default: 10), of each code in --codes (1), or in all for priors without rows (64)",
    )
    parser.add_argument("--categories", type=integers, metavar="3,7", help="rows to draw (default: all)")
    parser.add_argument("--codes", type=Path, metavar="FILE", help="codes [N, code_dim] in an .npz or .pt file")
    add_draws(parser)


def run(arguments: argparse.Namespace) -> None:
    """Draw images: a row for each category, component or code; draws from the prior where there are none."""
    out = check_destination(arguments.out, PICTURE, ARRAYS)
    model = model_of(arguments)
    num, rows = arguments.num, arguments.categories
    labels = None
    if arguments.codes is not None:
        if rows is not None:
            raise ConfigurationError("codes together with categories is not usable: allowed is one of them")
        codes = read_codes(arguments.codes, model.prior.code_dim)
        grid = codes.unsqueeze(1).repeat(1, num or 1, 1)
        flat = num is None or num == 1
    elif rows is not None or number_of_rows(model.prior) is not None:
        grid, numbers, categories = code_rows(model.prior, num or 10, keyed_generator("codes", arguments.seed), rows)
        labels = [f"k={row}" if categories else str(row) for row in numbers or []]
        flat = False
    else:
        grid = model.prior.sample(num or 64, keyed_generator("codes", arguments.seed)).unsqueeze(1)
        flat = True
    codes = grid.flatten(0, 1).cpu()
    images = draw(model, codes, arguments)
    figure = None
    if out.suffix == PICTURE:
        figure = figures.sheet(images) if flat else figures.image_rows(images.unflatten(0, grid.shape[:2]), labels)
    write(out, figure, images=images, codes=codes, seed=arguments.seed, temperature=arguments.temperature)
    say(f"{len(images)} images: {out}")
