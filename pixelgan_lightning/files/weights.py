"""Weights on disk: checkpoints of Lightning, exported folders, and starting a model from either."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pytorch_lightning.utilities import rank_zero_info
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.files.checkpoint_io import require_whole, unreadable
from pixelgan_lightning.files.former import with_phases
from pixelgan_lightning.version import __version__

M = TypeVar("M", bound=Autoencoder)

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
AVERAGED = {"current_model_state", "averaging_state"}
"""Entries of a checkpoint whose ``state_dict`` is an average: ours, and one that Lightning's callback wrote."""

EXPORTED = ("encoder", "posterior", "decoder", "prior", "likelihood")
"""Parts of a model that sampling and inference need; the discriminator has done its work."""


@dataclass(frozen=True)
class Stored:
    """What a file or folder says about a model.

    Attributes:
        description: the arguments of :class:`~pixelgan_lightning.model.PixelGAN`, in plain containers.
        tensors: parameters and buffers by name, on the CPU; the averaged ones where a run averaged its weights.
        split_hash: which images the run was trained on and which were labelled, see
            ``ImageDataModule.split_hash``; None where it is not known.
        run_config: the configuration of the run, as YAML; None where the run was not one of the command line.
        classes: what the categories of the code stand for; None where no label has told it.
        weights: which they are, in words.
    """

    description: dict[str, Any]
    tensors: dict[str, Tensor]
    split_hash: str | None = None
    run_config: str | None = None
    classes: CategoryClasses | None = None
    weights: str = "as exported"


def read_checkpoint(path: Path | str, argument: str = "ckpt_path") -> Stored:
    """Description and weights in a checkpoint.

    Raises:
        ConfigurationError: the file, called ``argument`` in the message, is no checkpoint of a PixelGAN.
    """
    if not Path(path).is_file():
        raise ConfigurationError(
            f"{argument}={path} is not usable: there is no such file; allowed are checkpoints of this model"
        )
    require_whole(path, argument)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        about = content.get("pixelgan_lightning") or {}
        for name in ("global_step", "epoch"):
            number = content.get(name, 0)
            if not (isinstance(number, int) and 0 <= number < 2**63):
                raise ValueError(f"{name}={number!r}, where allowed are numbers >= 0")
        run_config = content.get("pixelgan_lightning_config")
        if not isinstance(run_config, str | None):
            raise ValueError(f"pixelgan_lightning_config={run_config!r}, where allowed is text")
        return Stored(
            with_phases(_description(content["hyper_parameters"])),
            _tensors(content["state_dict"]),
            about.get("split_hash"),
            run_config,
            CategoryClasses.from_plain(content.get("pixelgan_lightning_classes")),
            _which(content),
        )
    except Exception as error:  # unpickling raises anything
        raise unreadable(path, error, argument) from error


def _which(content: dict[str, Any]) -> str:
    weights = "their moving average" if AVERAGED & content.keys() else "as trained"
    return f"{weights}, step {content['global_step']}" if "global_step" in content else weights


def read_folder(folder: Path | str, argument: str = "pretrained") -> Stored:
    """Description and weights in a folder that :func:`export` made.

    Raises:
        ConfigurationError: a file is missing or damaged.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ConfigurationError(
                f"{argument}={folder} is not usable: it has no {name}; allowed are folders made by `pixelgan export`"
            )
    try:
        content = json.loads((folder / CONFIG).read_text())
        return Stored(
            with_phases(_description(content["model"])),
            load_file(folder / WEIGHTS),
            content.get("split_hash"),
            classes=CategoryClasses.from_plain(content.get("classes")),
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{argument}={folder} is not usable: its files are damaged ({type(error).__name__}: {error})"
        ) from error


def _description(content: Any) -> dict[str, Any]:
    """The arguments of a model, its parts as class path and arguments: nothing else is looked at for classes."""
    for part in (*EXPORTED, "discriminator", "augmentation"):
        what = content.get(part)
        if what is None and part not in EXPORTED:
            continue
        if not (
            isinstance(what, dict)
            and isinstance(what.get("class_path"), str)
            and isinstance(what.get("init_args"), dict | None)
        ):
            raise ValueError(f"{part}={what!r}, where allowed are class_path and init_args")
    return dict(content)


def _tensors(content: Any) -> dict[str, Tensor]:
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{name}={value!r} in state_dict, where allowed are tensors")
    return dict(content)


def read(path: Path | str, argument: str) -> Stored:
    """A checkpoint, or a folder made by :func:`export`."""
    return read_folder(path, argument) if Path(path).is_dir() else read_checkpoint(path, argument)


def is_exported(name: str) -> bool:
    """Whether a parameter or buffer belongs to a part that exported folders hold."""
    return name.partition(".")[0] in EXPORTED


def export(stored: Stored, folder: Path | str, card: str, half: bool = True) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` to a new folder, all of them or none.

    Args:
        stored: the weights; those of the discriminator are left out.
        folder: must not exist yet, its parent must.
        card: text of ``README.md``.
        half: store floating-point numbers with 16 bits, which halves the file; they are loaded as float32.

    Raises:
        ConfigurationError: the folder exists or cannot be made, or a number is too large for 16 bits.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigurationError(f"out={folder} is not usable: it exists; allowed is the name of a new folder")
    if not folder.parent.is_dir():
        raise ConfigurationError(f"out={folder} is not usable: there is no folder {folder.parent}")
    tensors = {}
    for name, tensor in stored.tensors.items():
        if not is_exported(name):
            continue
        value = tensor.half() if half and tensor.is_floating_point() else tensor
        if value.is_floating_point() and not (value.isfinite() == tensor.isfinite()).all():
            raise ConfigurationError(f"half=True is not usable: {name} has numbers beyond 65504; allowed is half=False")
        tensors[name] = value.contiguous().clone()  # the format takes no shared memory
    config = {
        "pixelgan_lightning": __version__,
        "model": stored.description,
        "split_hash": stored.split_hash,
        "classes": None if stored.classes is None else stored.classes.plain(),
    }
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (unfinished / CARD).write_text(card)
        mask = os.umask(0)
        os.umask(mask)
        (unfinished / WEIGHTS).chmod(0o666 & ~mask)  # made for the owner only, as temporary folders are
        unfinished.chmod(0o777 & ~mask)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def build(cls: type[M], stored: Stored, where: str) -> M:
    """The model that ``stored`` describes, with its weights, in evaluation mode.

    Args:
        cls: :class:`~pixelgan_lightning.model.PixelGAN` or a subclass.
        stored: description and weights.
        where: the argument they come from and its value, for messages.

    Raises:
        ConfigurationError: the description has arguments that the model does not know, or names and shapes of the
            weights do not match it; the discriminator alone may be missing.
    """
    try:
        model = cls(**stored.description)
        missing, unexpected = model.load_state_dict(stored.tensors, strict=False)
    except ConfigurationError:
        raise
    except (TypeError, RuntimeError) as error:
        raise ConfigurationError(f"{where} is not usable: {' '.join(str(error).split())}") from error
    wrong = [name for name in missing if is_exported(name)] + unexpected
    if wrong:
        raise ConfigurationError(f"{where} is not usable: its weights do not match its description in {wrong}")
    return model.eval()


def warm_start(model: Autoencoder, path: Path | str) -> list[str]:
    """Take from a checkpoint or exported folder the weights of every layer that fits; the others stay as they are.

    A layer fits if the file has all its tensors in the same shapes: with another number of categories the layers that
    read or make a code keep their initial values. One line says which.

    Returns:
        Names of the layers that were left alone; a component's name stands for all its layers.

    Raises:
        ConfigurationError: there is no such file, or no layer fits.
    """
    tensors = read(path, "init_from").tensors
    own = model.state_dict()
    by_layer: dict[str, list[str]] = {}
    for name in own:
        by_layer.setdefault(name.rpartition(".")[0], []).append(name)
    fits = {
        layer: all(name in tensors and tensors[name].shape == own[name].shape for name in names)
        for layer, names in by_layer.items()
    }
    taken = [name for layer, names in by_layer.items() if fits[layer] for name in names]
    if not taken:
        raise ConfigurationError(
            f"init_from={path} is not usable: no layer has the shape of this model's; allowed is a model with the same "
            "encoder or decoder"
        )
    model.load_state_dict({name: tensors[name] for name in taken}, strict=False)
    model.warm_started = True
    components: dict[str, list[str]] = {}
    for layer in by_layer:
        components.setdefault(layer.partition(".")[0], []).append(layer)
    left: list[str] = []
    for component, layers in components.items():
        out = [layer for layer in layers if not fits[layer]]
        left += [component] if out == layers else out
    rank_zero_info(
        f"init_from={path}: {len(taken)} of {len(own)} tensors taken"
        + (
            f"; left at their initial values, as the file has them not or in other shapes: {', '.join(left)}"
            if left
            else ""
        )
    )
    return left
