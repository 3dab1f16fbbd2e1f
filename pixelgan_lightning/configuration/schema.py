"""Which settings there are, what they are by default, and whether those that are given can be used.

jsonargparse checks them by the types of the constructors and makes the objects. Where it refuses, :func:`complaint`
looks for the setting that it is about; what it does not find is said by jsonargparse's own message.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, get_args, get_origin

import jsonargparse
import pytorch_lightning as pl

from pixelgan_lightning.callbacks import RunCheckpoint
from pixelgan_lightning.configuration.classes import COMPONENTS, LIGHTNING, arguments, constructors, loaded, public_path
from pixelgan_lightning.configuration.settings import Layer, Whole, laid_over
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.model import THE_PAPERS, PixelGAN
from pixelgan_lightning.phases import Phase
from pixelgan_lightning.trust import PACKAGE

FROM_DATA = ("image_shape", "num_classes")  # model arguments that the data decides
SECTIONS = {"model": PixelGAN, "data": pl.LightningDataModule, "trainer": pl.Trainer, "checkpoint": RunCheckpoint}


class Option(NamedTuple):
    """A setting that belongs to no section."""

    type: Any
    default: Any
    help: str


OPTIONS = {
    "run_dir": Option(str | None, None, "folder of the run; default: a new one in runs/, or that of --ckpt_path"),
    "ckpt_path": Option(str | None, None, "checkpoint of a run, or 'last' with --run_dir; fit goes on from it"),
    "init_from": Option(
        str | None, None, "start from weights: checkpoint, exported folder or shipped model; fresh optimizers"
    ),
    "seed_everything": Option(int, 0, "key of all random draws"),
    "compile_decoder": Option(bool, False, "torch.compile the decoder: half a minute once, then faster steps on a GPU"),
    "cuda_graphs": Option(bool, False, "on one GPU: each step as a CUDA graph, no waiting for the host, more memory"),
    "allow": Option(str | None, None, "modules (a,b) of yours that a checkpoint may name; their code runs"),
}
OF_PREDICT = {
    "images": Option(str | None, None, "pictures not seen in training: folder, .npz, .pt or .csv; default: the run's"),
    "out": Option(str | None, None, "one table, .csv or .parquet; default: predictions/ in the run's folder"),
}
DEFAULTS: Layer = {
    "model": {
        "prior": {"class_path": "pixelgan_lightning.priors.Categorical"},
        "encoder": {"class_path": "pixelgan_lightning.encoders.ConvEncoder"},
        "decoder": {"class_path": "pixelgan_lightning.decoders.GatedPixelCNN"},
        "likelihood": {"class_path": "pixelgan_lightning.likelihoods.Bernoulli"},
        "discriminator": {"class_path": "pixelgan_lightning.discriminators.MLPDiscriminator"},
        "phases": Whole({name: {"class_path": public_path(phase)} for name, phase in THE_PAPERS.items()}),
    },
    "data": {"class_path": "pixelgan_lightning.datamodules.DigitsDataModule"},
    "trainer": {"logger": {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "runs"}}},
}


def options_of(command: str) -> dict[str, Option]:
    """The settings that belong to no section, by name."""
    return {**OPTIONS, **(OF_PREDICT if command == "predict" else {})}


class Schema:
    """The settings of a command."""

    def __init__(self, command: str) -> None:
        self.options = options_of(command)
        self.parser = parser = jsonargparse.ArgumentParser(
            exit_on_error=False, dump_header=[f"pytorch_lightning=={pl.__version__}"]
        )
        parser.add_argument("--seed_everything", type=int, default=0)
        # In Python the model takes plain dictionaries too; here only classes, so that their arguments are checked.
        parser.add_class_arguments(PixelGAN, "model", skip={*COMPONENTS, "phases"})
        for name, base in COMPONENTS.items():
            parser.add_subclass_arguments(base, f"model.{name}", required=False)
        parser.add_argument("--model.phases", type=dict[str, Phase])
        parser.add_subclass_arguments(pl.LightningDataModule, "data", fail_untyped=False)
        parser.add_class_arguments(pl.Trainer, "trainer", fail_untyped=False, instantiate=False)
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
        for name, option in self.options.items():
            if name != "seed_everything":
                parser.add_argument(f"--{name}", type=option.type, default=option.default)
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parsed(self, layers: Sequence[Layer], note: bool = False) -> jsonargparse.Namespace:
        """The whole configuration: ``layers`` over the defaults, checked.

        Raises:
            ConfigurationError: a setting is unknown, or its value has another type.
        """
        settings = laid_over([DEFAULTS, *layers], note)
        for name in ("seed", *FROM_DATA):
            if name in settings["model"]:
                other = "seed_everything" if name == "seed" else "data"
                raise ConfigurationError(f"model.{name}={settings['model'][name]} is not usable: it is that of {other}")
        if settings["data"] is None:
            raise ConfigurationError("data=None is not usable: allowed is a data module")
        phases = settings["model"].get("phases")
        if not isinstance(phases, Mapping):
            raise ConfigurationError(f"model.phases={phases} is not usable: allowed are phases by name")
        settings["model"]["phases"] = {n: spec for n, spec in phases.items() if spec not in (None, "null")}
        try:
            return self.parser.parse_object(copy.deepcopy(settings))  # which changes what it is given
        except argparse.ArgumentError as error:
            raise ConfigurationError(complaint(settings, self.options) or " ".join(str(error).split())) from error


def may_import(modules: Collection[str]) -> None:
    """Whatever a setting names, jsonargparse imports nothing but this package, Lightning, and ``modules``."""
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[PACKAGE, *LIGHTNING, *sorted(modules)]
    )


# -------------------------------------------------------------------------------------------- which setting is unusable


def complaint(settings: Mapping[str, Any], options: Mapping[str, Option]) -> str | None:
    """What is wrong with the first setting that is unknown or of another type, in one line; None: all look usable."""
    known = [*options, *SECTIONS]
    for name, value in settings.items():
        if name not in known:
            return f"{name} is unknown{_nearest(name, known)}"
        if name in options and (found := _of_type(value, options[name].type, name)):
            return found
    sections = ((name, SECTIONS[name], settings.get(name) or {}) for name in ("model", "trainer", "checkpoint"))
    found = next(filter(None, (_of_arguments(value, cls, name) for name, cls, value in sections)), None)
    return found or _of_class(settings["data"], "data")


def _of_arguments(values: Any, cls: type, key: str) -> str | None:
    if not isinstance(values, Mapping):
        return f"{key}={values} is not usable: allowed are arguments by name"
    parameters = arguments(cls)
    for name, value in values.items():
        where = f"{key}.{name}"
        if name not in parameters:
            return f"{where} is unknown{_nearest(name, parameters, cls)}"
        if name == "phases" and isinstance(value, Mapping):
            found = next(filter(None, (_of_class(spec, f"{where}.{phase}") for phase, spec in value.items())), None)
        elif name in COMPONENTS and value is None:
            found = None
        elif name in COMPONENTS or (isinstance(value, dict) and "class_path" in value):
            found = _of_class(value, where)
        elif name == "callbacks" and isinstance(value, list):
            found = next(filter(None, (_of_class(spec, where) for spec in value)), None)
        else:
            found = _of_type(value, types_of(cls).get(name, Any), where)
        if found:
            return found
    return None


def _of_class(spec: Any, key: str) -> str | None:
    if not isinstance(spec, dict) or "class_path" not in spec:
        return f"{key}={spec} is not usable: allowed are the name of a class, and class_path with init_args"
    unknown = spec.keys() - {"class_path", "init_args", "dict_kwargs"}
    if unknown:
        return f"{key}.{min(unknown)} is unknown: allowed are class_path and init_args"
    try:
        cls = loaded(spec["class_path"])
    except (KeyError, AttributeError):  # of a nested argument: jsonargparse says so
        return None
    return _of_arguments(spec.get("init_args") or {}, cls, key)


def _of_type(value: Any, kind: Any, key: str) -> str | None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind)
        parser.parse_object({"value": value})
    except argparse.ArgumentError:
        return f"{key}={value} is not usable: allowed is {in_words(kind)}"
    except ValueError:  # no type that jsonargparse knows
        return None
    return None


def types_of(cls: type) -> dict[str, Any]:
    """The types of a constructor's arguments, by name."""
    found: dict[str, Any] = {}
    for base in constructors(cls):
        with suppress(NameError):  # imported for type checkers only
            found = typing.get_type_hints(vars(base)["__init__"]) | found
    return found


def in_words(kind: Any) -> str:
    """A type as a user would say it."""
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in get_args(kind)))
    if kind is type(None):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _nearest(name: str, known: Iterable[str], cls: type | None = None) -> str:
    names = [*known]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f": did you mean {close[0]}?"
    if cls is None or cls is pl.Trainer:
        return f": see pixelgan fit --help{'' if cls is None else ' trainer'}"
    return f": {cls.__name__} has {', '.join(names) or 'no arguments'}"


__all__ = ["DEFAULTS", "FROM_DATA", "Option", "Schema", "complaint", "in_words", "may_import", "options_of"]
