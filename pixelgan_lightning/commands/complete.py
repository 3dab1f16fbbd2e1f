"""``pixelgan complete``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pixelgan_lightning.commands.arguments import (
    BATCH,
    add_draws,
    add_model,
    integer,
    model_of,
    part_seed,
)
from pixelgan_lightning.commands.run_data import data_of_run, stored_model, unseen_images
from pixelgan_lightning.datamodules.pixels import to_unit_interval
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.files.image_files import ARRAYS, PICTURE, check_destination, write
from pixelgan_lightning.messages import say
from pixelgan_lightning.model import PixelGAN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture or .npz arrays")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="a picture, folder, .npz, .pt or .csv (default: the run's test images)",
    )
    parser.add_argument("--rows", type=integer(0), required=True, help="how many rows of pixels are kept")
    parser.add_argument(
        "--codes_of",
        type=Path,
        metavar="PATH",
        help="images whose codes to use, one or one for each image (default: the images themselves)",
    )
    parser.add_argument("--num", type=integer(1), default=8, help="images to complete (default: %(default)s)")
    parser.add_argument("--draws", type=integer(1), default=4, help="completions of each (default: %(default)s)")
    add_draws(parser)


def run(arguments: argparse.Namespace) -> None:
    """Keep the first rows of images and draw the rest: image, what is kept, completions, side by side."""
    out = check_destination(arguments.out, PICTURE, ARRAYS)
    model = model_of(arguments)
    if arguments.images is not None:
        images = _read(arguments, model, "images")[: arguments.num]
    else:
        images = _test_images(arguments, arguments.num)
    others = images
    if arguments.codes_of is not None:
        others = _read(arguments, model, "codes_of")
        if len(others) not in (1, len(images)):
            raise ConfigurationError(
                f"codes_of={arguments.codes_of} with {len(others)} images is not usable: allowed are 1 and "
                f"{len(images)}, one for each"
            )
    codes = model.encode(others.to(model.device)).expand(len(images), -1)
    draws = arguments.draws
    inputs = images.to(model.device).repeat_interleave(draws, 0)
    parts = zip(inputs.split(BATCH), codes.repeat_interleave(draws, 0).split(BATCH), strict=True)
    completed = torch.cat(
        [
            model.complete(x, arguments.rows, z, part_seed(arguments.seed, i), arguments.temperature).cpu()
            for i, (x, z) in enumerate(parts)
        ]
    ).unflatten(0, (len(images), draws))
    kept = images.clone()
    kept[:, :, arguments.rows :] = 0.5
    figure = None
    if out.suffix == PICTURE:
        figure = figures.image_rows(torch.cat([images.unsqueeze(1), kept.unsqueeze(1), completed], 1))
    write(
        out,
        figure,
        inputs=images,
        images=completed,
        codes=codes.cpu(),
        rows=arguments.rows,
        seed=arguments.seed,
        temperature=arguments.temperature,
    )
    say(f"{draws} completions of {len(images)} images: {out}")


def _read(arguments: argparse.Namespace, model: PixelGAN, argument: str) -> Tensor:
    """Images ``[N, C, H, W]`` in [0, 1], of the path that an argument names."""
    unseen = unseen_images(arguments, model, stored_model(arguments), getattr(arguments, argument), argument)
    return to_unit_interval(unseen.images(), unseen.levels)


def _test_images(arguments: argparse.Namespace, number: int) -> Tensor:
    """The first test images of the data of the checkpoint's run."""
    data = data_of_run(arguments)
    data.setup("test")
    images: list[Tensor] = []
    for batch in data.test_dataloader():
        images.append(batch["image"])
        if sum(map(len, images)) >= number:
            break
    return torch.cat(images)[:number]
