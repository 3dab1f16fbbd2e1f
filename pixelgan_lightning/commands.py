"""The commands around a trained model: ``pixelgan sample | complete | compare | export | report``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

import pixelgan_lightning.datamodules  # noqa: F401  (imported so that short class names resolve in YAML)
from pixelgan_lightning import figures, pretrained
from pixelgan_lightning.code_rows import code_rows, number_of_rows
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.image_files import ARRAYS, PICTURE, check_destination, read_codes, read_images, write
from pixelgan_lightning.messages import say
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.model_card import model_card
from pixelgan_lightning.random import keyed_generator
from pixelgan_lightning.report import write_report
from pixelgan_lightning.run_folder import CONFIG, run_of
from pixelgan_lightning.weights import build, export, read_checkpoint

BATCH = 250
"""Images drawn at a time, which bounds the memory; a part of what a seed means."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an argument."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def main(args: Sequence[str]) -> None:
    """Run the command named by the first of ``args``.

    Raises:
        ConfigurationError: what was asked for cannot be done.
    """
    parser = Parser(prog="pixelgan", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, parser_class=Parser)
    for name, (command, add_arguments) in COMMANDS.items():
        assert command.__doc__ is not None
        text = command.__doc__.partition("\n")[0]
        subparser = commands.add_parser(name, description=text, help=text, allow_abbrev=False)
        add_arguments(subparser)
        subparser.set_defaults(command=command)
    arguments = parser.parse_args(list(args))
    arguments.command(arguments)


# --------------------------------------------------------------------------------------------------------- the commands


def sample(arguments: argparse.Namespace) -> None:
    """Draw images: a row for each category, component or code; draws from the prior where there are none."""
    out = check_destination(arguments.out, PICTURE, ARRAYS)
    model = _model(arguments)
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
    codes = grid.flatten(0, 1)
    images = _draw(model, codes, arguments)
    figure = None
    if out.suffix == PICTURE:
        figure = figures.sheet(images) if flat else figures.image_rows(images.unflatten(0, grid.shape[:2]), labels)
    write(out, figure, images=images, codes=codes, seed=arguments.seed, temperature=arguments.temperature)
    say(f"{len(images)} images: {out}")


def complete(arguments: argparse.Namespace) -> None:
    """Keep the first rows of images and draw the rest: image, what is kept, completions, side by side."""
    out = check_destination(arguments.out, PICTURE, ARRAYS)
    model = _model(arguments)
    shape, levels = model.image_shape, model.likelihood.levels
    if arguments.images is not None:
        images = read_images(arguments.images, shape, levels)[: arguments.num]
    else:
        images = _test_images(arguments, arguments.num)
    codes = None
    if arguments.codes_of is not None:
        others = read_images(arguments.codes_of, shape, levels, "codes_of")
        if len(others) not in (1, len(images)):
            raise ConfigurationError(
                f"codes_of={arguments.codes_of} with {len(others)} images is not usable: allowed are 1 and "
                f"{len(images)}, one for each"
            )
        codes = model.encode(others).expand(len(images), -1)
    else:
        codes = model.encode(images)
    draws = arguments.draws
    inputs = images.repeat_interleave(draws, 0)
    parts = zip(inputs.split(BATCH), codes.repeat_interleave(draws, 0).split(BATCH), strict=True)
    completed = torch.cat(
        [
            model.complete(x, arguments.rows, z, _seed(arguments.seed, i), arguments.temperature)
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
        codes=codes,
        rows=arguments.rows,
        seed=arguments.seed,
        temperature=arguments.temperature,
    )
    say(f"{draws} completions of {len(images)} images: {out}")


def compare(arguments: argparse.Namespace) -> None:
    """Put samples of several models side by side in one picture, for example PixelCNN, autoencoder and PixelGAN."""
    out = check_destination(arguments.out, PICTURE)
    titles = arguments.titles.split(",") if arguments.titles else [_title(name) for name in arguments.models]
    if len(titles) != len(arguments.models):
        raise ConfigurationError(
            f"titles={arguments.titles} is not usable: allowed are {len(arguments.models)}, one for each model"
        )
    panels = []
    for name in arguments.models:
        path = Path(name)
        model = _from_checkpoint(path) if path.is_file() else PixelGAN.from_pretrained(name)
        codes = model.prior.sample(arguments.side**2, keyed_generator("codes", arguments.seed))
        panels.append(_draw(model, codes, arguments))
    shapes = {tuple(panel.shape[-2:]) for panel in panels}
    if len(shapes) > 1:
        raise ConfigurationError(f"models with images of sizes {sorted(shapes)} are not usable: allowed is one size")
    write(out, figures.global_local(panels, titles))
    say(f"{len(panels)} models: {out}")


def export_folder(arguments: argparse.Namespace) -> None:
    """Write a folder with weights, configuration and model card, for --pretrained and PixelGAN.from_pretrained."""
    checkpoint = arguments.ckpt_path
    stored = read_checkpoint(checkpoint)
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


def report(arguments: argparse.Namespace) -> None:
    """Write one HTML page of everything a run has written: curves, pictures, results, configuration."""
    out = arguments.out or arguments.run_folder / "report.html"
    for words in write_report(arguments.run_folder, out).missing:
        say(words)
    say(f"report: {out}")


# -------------------------------------------------------------------------------------------------------- the arguments


def _which_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ckpt_path", type=Path, metavar="FILE", help="checkpoint of a run")
    known = ", ".join(pretrained.names())
    which.add_argument(
        "--pretrained",
        metavar="NAME",
        help=f"model that ships with the package ({known or 'none in this version'}), or an exported folder",
    )


def _drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_integer(0), default=0, help="key of the draws (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=_positive, default=1.0, help="divides the pixels' logits (default: %(default)s)"
    )


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    _which_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture or .npz arrays")
    parser.add_argument(
        "--num",
        type=_integer(1),
        help="images in each row (default: 10), of each code in --codes (1), or in all for priors without rows (64)",
    )
    parser.add_argument("--categories", type=_integers, metavar="3,7", help="rows to draw (default: all)")
    parser.add_argument("--codes", type=Path, metavar="FILE", help="codes [N, code_dim] in an .npz or .pt file")
    _drawing(parser)


def _complete_arguments(parser: argparse.ArgumentParser) -> None:
    _which_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture or .npz arrays")
    parser.add_argument(
        "--images", type=Path, metavar="PATH", help=".png, folder of them, .npz or .pt (default: the run's test images)"
    )
    parser.add_argument("--rows", type=_integer(0), required=True, help="how many rows of pixels are kept")
    parser.add_argument(
        "--codes_of",
        type=Path,
        metavar="PATH",
        help="images whose codes to use, one or one for each image (default: the images themselves)",
    )
    parser.add_argument("--num", type=_integer(1), default=8, help="images to complete (default: %(default)s)")
    parser.add_argument("--draws", type=_integer(1), default=4, help="completions of each (default: %(default)s)")
    _drawing(parser)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="CKPT", help="checkpoints, exported folders, pretrained names")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png picture")
    parser.add_argument("--titles", metavar="A,B,...", help="one for each model (default: its run folder or name)")
    parser.add_argument(
        "--side", type=_integer(1), default=8, help="each model has side * side samples (default: %(default)s)"
    )
    _drawing(parser)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt_path", type=Path, required=True, metavar="FILE", help="checkpoint of a run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card in Markdown (default: one made of what the run says)"
    )
    parser.add_argument("--float32", action="store_true", help="keep 32 bits a number instead of 16")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run's folder)")


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], None], Callable[[argparse.ArgumentParser], None]]] = {
    "sample": (sample, _sample_arguments),
    "complete": (complete, _complete_arguments),
    "compare": (compare, _compare_arguments),
    "export": (export_folder, _export_arguments),
    "report": (report, _report_arguments),
}


def _integer(minimum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not usable: allowed are integers >= {minimum}")
        return value

    return convert


def _integers(text: str) -> list[int]:
    return [_integer(0)(part) for part in text.split(",")]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not usable: allowed are finite numbers > 0")
    return value


# -------------------------------------------------------------------------------------------------------------- helpers


def _model(arguments: argparse.Namespace) -> PixelGAN:
    if arguments.pretrained is not None:
        return PixelGAN.from_pretrained(arguments.pretrained)
    return _from_checkpoint(arguments.ckpt_path)


def _from_checkpoint(path: Path) -> PixelGAN:
    """The model in a checkpoint, with averaged weights where the run averaged them."""
    return build(PixelGAN, read_checkpoint(path), f"ckpt_path={path}")


def _draw(model: PixelGAN, codes: Tensor, arguments: argparse.Namespace) -> Tensor:
    return torch.cat(
        [
            model.sample(part, _seed(arguments.seed, i), arguments.temperature)
            for i, part in enumerate(codes.split(BATCH))
        ]
    )


def _seed(seed: int, part: int) -> int:
    """The first part has the seed itself, so that few images are those of :meth:`PixelGAN.sample`."""
    return seed if part == 0 else keyed_generator("part", seed, part).initial_seed()


def _title(name: str) -> str:
    path = Path(name)
    return run_of(path).resolve().name if path.is_file() else path.name


def _test_images(arguments: argparse.Namespace, number: int) -> Tensor:
    """The first test images of the data that the configuration of the checkpoint's run names."""
    if arguments.ckpt_path is None:
        raise ConfigurationError("pretrained without images is not usable: allowed are image files, see --images")
    config = run_of(arguments.ckpt_path) / CONFIG
    text = read_checkpoint(arguments.ckpt_path).run_config or (config.read_text() if config.is_file() else None)
    if text is None:
        raise ConfigurationError(f"images are needed: beside the checkpoint there is no {config} that names its data")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    parser.link_arguments("seed_everything", "data.init_args.seed")
    try:
        content = yaml.safe_load(text)
        wanted = {name: content[name] for name in ("seed_everything", "data") if name in content}
        data: Any = parser.instantiate(parser.parse_object(wanted)).data
    except (jsonargparse.ArgumentError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{config} is not usable: {' '.join(str(error).split())}") from error
    data.setup("test")
    images: list[Tensor] = []
    for batch in data.test_dataloader():
        images.append(batch["image"])
        if sum(map(len, images)) >= number:
            break
    return torch.cat(images)[:number]
