"""``pixelgan gallery``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelgan_lightning.commands.arguments import add_draws, add_model, draw, integer, model_of
from pixelgan_lightning.commands.run_data import data_of_run, stored_model, unseen_images
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.category_classes import class_names
from pixelgan_lightning.evaluation.code_rows import code_rows
from pixelgan_lightning.files.image_files import check_destination
from pixelgan_lightning.files.run_folder import run_of
from pixelgan_lightning.files.weights import Stored
from pixelgan_lightning.messages import say
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.pages.gallery import Looked, gallery
from pixelgan_lightning.pages.html import write_page
from pixelgan_lightning.random import keyed_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="a picture, folder, .npz, .pt or .csv (default: images of the run, --split)",
    )
    parser.add_argument(
        "--split",
        choices=("all", "train", "val", "test"),
        default="all",
        help="which images of the run; all: for training and validation (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: gallery.html in the run's folder)")
    parser.add_argument(
        "--num", type=integer(1), default=8, help="images of each kind in a category (default: %(default)s)"
    )
    add_draws(parser)


def run(arguments: argparse.Namespace) -> None:
    """Show every category: images drawn from it, its most typical ones, and those the model is least sure of."""
    if arguments.out is None and arguments.ckpt_path is None:
        raise ConfigurationError("pretrained without out is not usable: name the page, for example --out gallery.html")
    out = check_destination(arguments.out or run_of(arguments.ckpt_path) / "gallery.html", ".html")
    model = model_of(arguments)
    if model.prior.num_categories is None:
        raise ConfigurationError(
            f"gallery with prior={type(model.prior).__name__} is not usable: allowed are priors with categories"
        )
    stored = stored_model(arguments)
    title = out.stem if arguments.ckpt_path is None else run_of(arguments.ckpt_path).resolve().name
    looked = _looked(model, _loaders(arguments, model, stored), stored, arguments)
    write_page(out, gallery(looked, title, arguments.num))
    say(f"{len(looked.images)} images: {out}")


def _loaders(arguments: argparse.Namespace, model: PixelGAN, stored: Stored) -> tuple[Any, list[tuple[str, Any]]]:
    """The data, and loaders of the images with the source that each reads."""
    if arguments.images is not None:
        data = unseen_images(arguments, model, stored, arguments.images)
        return data, [("images", data.predict_dataloader()[0])]
    data = data_of_run(arguments)
    if not hasattr(data, "predict_split_names"):
        raise ConfigurationError(
            f"data={type(data).__name__} is not usable without images: allowed are data modules with "
            "predict_split_names, see --images"
        )
    wanted = ("train", "val") if arguments.split == "all" else (arguments.split,)
    data.predict_split_names = wanted
    data.setup("predict")
    sources = ["test" if split == "test" else "train" for split in wanted]
    return data, list(zip(sources, data.predict_dataloader(), strict=True))


def _looked(
    model: PixelGAN, found: tuple[Any, list[tuple[str, Any]]], stored: Stored, arguments: argparse.Namespace
) -> Looked:
    data, loaders = found
    images, logits, labels = [], [], []
    names: list[str] = []
    for source, loader in loaders:
        for batch in loader:
            images.append(batch["image"])
            logits.append(model.category_logits(batch["image"].to(model.device)).cpu())
            labels.append(batch["label"])
            names += [_name(data, source, row) for row in batch["index"].tolist()]
    return Looked(
        torch.cat(images),
        torch.cat(logits),
        names,
        torch.cat(labels),
        _samples(model, arguments),
        stored.classes,
        class_names(data, model.num_classes),
    )


def _name(data: Any, source: str, row: int) -> str:
    name = data.image_name(source, row) if hasattr(data, "image_name") else None
    return name or f"row {row}"


def _samples(model: PixelGAN, arguments: argparse.Namespace) -> Tensor:
    codes = code_rows(model.prior, arguments.num, keyed_generator("codes", arguments.seed)).codes
    return draw(model, codes.flatten(0, 1), arguments).unflatten(0, codes.shape[:2])
