"""What of the configuration of an earlier run is taken where a command goes on from its checkpoint.

The file is data from anywhere (:mod:`pixelgan_lightning.trust`), and it was written on another machine perhaps. Taken
are the seed, the data, the lengths and intervals of the training, and callbacks that measure; the model is described
by the checkpoint itself. Accelerator, devices, nodes, strategy, plugins, precision, loggers and folders belong to the
machine: they come from the command line and its own ``--config`` files.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.plain_files import parse_yaml
from pixelgan_lightning.trust import PACKAGE, require_trusted, trusted_class

NUMBERS = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "deterministic", "benchmark"),
)
"""Arguments of the trainer that are taken if they are numbers, true, false or null; and ``max_time``, a text."""

CHECKPOINT = ("monitor", "mode", "save_top_k", "every_n_train_steps")
"""Arguments of the checkpoint callback that are taken."""

OF_LIGHTNING = ("EarlyStopping", "LearningRateMonitor")
"""Callbacks of Lightning that are taken beside those of this package; they write nothing and call nothing."""

PLACES = ("out", "folder", "dirpath")
"""Arguments of callbacks that say where to write: not taken."""


@dataclass(frozen=True)
class Taken:
    """The part of a configuration that is taken, in the form of a configuration.

    Attributes:
        content: sections and their values.
        modules: of the classes that it names.
        left: keys of settings that are not taken.
        data_left: the class of the data, where these are not taken.
    """

    content: dict[str, Any] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    data_left: str | None = None


def taken(text: str, where: str, allowed: Collection[str], wants_data: Callable[[str], bool] = lambda _: True) -> Taken:
    """The part of the configuration ``text`` that is taken.

    Args:
        text: YAML.
        where: it comes from, for messages.
        allowed: modules outside of this package whose classes it may name.
        wants_data: whether data of a class are taken; they are not where the user names another one.

    Raises:
        ConfigurationError: it is no configuration, or its data are of a module that is not allowed.
    """
    whole = parse_yaml(text, f"config={where}")
    if not all(isinstance(_section(whole, name), dict) for name in whole):
        raise ConfigurationError(f"config={where} is not usable: allowed are mappings")
    data = whole.get("data") or None
    path = str(data.get("class_path")) if isinstance(data, dict) else None
    part = Taken(data_left=None if path is None or wants_data(path) else path)
    seed = whole.get("seed_everything")
    if isinstance(seed, int):
        part.content["seed_everything"] = seed
    if data is not None and part.data_left is None:
        part.modules.update(require_trusted(data, (pl.LightningDataModule, Component), allowed))
        part.content["data"] = _at_home(data, pl.LightningDataModule, allowed)
    trainer = _section(whole, "trainer")
    numbers = {name: value for name, value in trainer.items() if name in NUMBERS and _is_number(value)}
    if isinstance(trainer.get("max_time"), str):
        numbers["max_time"] = trainer["max_time"]
    callbacks = _callbacks(trainer.get("callbacks"), part, allowed)
    part.content["trainer"] = {**numbers, **({"callbacks": callbacks} if callbacks else {})}
    part.content["checkpoint"] = {
        name: value for name, value in _section(whole, "checkpoint").items() if name in CHECKPOINT
    }
    defaults = {"logger": {"class_path": "CSVLogger"}, "default_root_dir": None, "callbacks": None}
    for name, value in trainer.items():
        default = defaults.get(name, _trainer_default(name))
        if name not in numbers and name not in ("callbacks", "default_root_dir") and not _same(value, default):
            part.left.append(f"trainer.{name}")
    return part


def _section(content: dict[str, Any], name: str) -> Any:
    return content.get(name) or {} if name in ("data", "trainer", "checkpoint", "model") else {}


def _callbacks(callbacks: Any, part: Taken, allowed: Collection[str]) -> list[Any]:
    kept = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []:
        path = callback.get("class_path") if isinstance(callback, dict) else None
        if not isinstance(path, str):
            continue
        name, arguments = path.rpartition(".")[2], callback.get("init_args") or {}
        if path.startswith("pytorch_lightning.callbacks.") and name in OF_LIGHTNING:
            kept.append({"class_path": f"pytorch_lightning.callbacks.{name}", "init_args": _plain(arguments)})
            continue
        try:
            modules = require_trusted(callback, (Callback, Component), allowed)
            if path.startswith(f"{PACKAGE}.") and any(arguments.get(place) is not None for place in PLACES):
                raise ConfigurationError(f"{name} would write where the file says")
            kept.append(_at_home({"class_path": path, "init_args": dict(arguments)}, Callback, allowed))
            part.modules.update(modules)
        except ConfigurationError:
            part.left.append(path)
    return kept


def _at_home(spec: Any, base: type, allowed: Collection[str]) -> Any:
    """The same by the path of today: a file may have a short name, and modules of this package move."""
    if not isinstance(spec, dict) or "class_path" not in spec:
        return spec
    cls: type = trusted_class(spec["class_path"], base, allowed, loaded=False)
    return {**spec, "class_path": f"{cls.__module__}.{cls.__qualname__}"}


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if isinstance(value, str) or _is_number(value)}


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _trainer_default(name: str) -> Any:
    parameter = inspect.signature(pl.Trainer).parameters.get(name)
    return parameter.default if parameter else None


def _same(value: Any, default: Any) -> bool:
    """Also where the value names the class of the default by its whole path."""
    if isinstance(value, dict) and isinstance(default, dict):
        return str(value.get("class_path")).rpartition(".")[2] == default["class_path"]
    return value is None or value == default


__all__ = ["Taken", "taken"]
