"""The data of the run that a checkpoint comes from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from pixelgan_lightning import pretrained
from pixelgan_lightning.commands.arguments import allowed_modules
from pixelgan_lightning.component import construct_nested
from pixelgan_lightning.datamodules.unseen import READING, UnseenImages
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.run_config import taken
from pixelgan_lightning.files.run_folder import CONFIG, run_of
from pixelgan_lightning.files.weights import Stored, read, read_checkpoint
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.plain_files import read_text
from pixelgan_lightning.trust import trusted_class


def data_of_run(arguments: argparse.Namespace) -> Any:
    """The data module that the configuration of the checkpoint's run names, not set up.

    Raises:
        ConfigurationError: the model comes from no run, or the configuration names no data, or none that is trusted.
    """
    if arguments.ckpt_path is None:
        raise ConfigurationError("pretrained without images is not usable: allowed are image files, see --images")
    described, seed = described_data(arguments)
    cls = trusted_class(described["class_path"], pl.LightningDataModule, allowed_modules(arguments), loaded=False)
    try:
        return cls(**{**construct_nested(described.get("init_args") or {}), **seed})
    except TypeError as error:
        raise ConfigurationError(f"the data of ckpt_path={arguments.ckpt_path} are not usable: {error}") from error


def described_data(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, int]]:
    """Class path and arguments of the data, and the seed of the run where it has one.

    Raises:
        ConfigurationError: see :func:`data_of_run`.
    """
    config = run_of(arguments.ckpt_path) / CONFIG
    text = read_checkpoint(arguments.ckpt_path).run_config or (read_text(config) if config.is_file() else None)
    if text is None:
        raise ConfigurationError(f"images are needed: beside the checkpoint there is no {config} that names its data")
    content = taken(text, str(config), allowed_modules(arguments)).content
    if "data" not in content:
        raise ConfigurationError(f"images are needed: {config} names no data")
    return content["data"], {"seed": content["seed_everything"]} if "seed_everything" in content else {}


def stored_model(arguments: argparse.Namespace) -> Stored:
    """What the file of the model holds."""
    where = arguments.ckpt_path or pretrained.folder(arguments.pretrained)
    return read(where, "ckpt_path" if arguments.ckpt_path else "pretrained")


def unseen_images(
    arguments: argparse.Namespace, model: PixelGAN, stored: Stored, path: Path, argument: str = "images"
) -> UnseenImages:
    """The images of ``path``: read as the run of the checkpoint read its own, and made into what ``model`` takes.

    Args:
        arguments: of the command.
        model: the model that is to see them.
        stored: what its file holds.
        path: what :class:`~pixelgan_lightning.datamodules.unseen.UnseenImages` reads.
        argument: what the path is called in messages.

    Raises:
        ConfigurationError: they cannot be read.
    """
    reading: dict[str, Any] = {}
    if arguments.ckpt_path is not None and stored.run_config is not None:
        given = described_data(arguments)[0].get("init_args") or {}
        reading = {name: given[name] for name in READING if name in given}
    names = None if stored.classes is None else stored.classes.names
    images = UnseenImages(str(path), model.image_shape, model.num_classes, names, model.likelihood.levels, **reading)
    images.argument = argument
    images.setup("predict")
    return images
