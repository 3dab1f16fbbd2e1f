"""The pages of ``pixelgan fit --help``: the project's own settings; a word further each class, and the trainer."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from docstring_parser import parse
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from pixelgan_lightning.callbacks import RunCheckpoint
from pixelgan_lightning.component import Component
from pixelgan_lightning.configuration.classes import COMPONENTS, SLOTS, arguments, constructors, find, ours
from pixelgan_lightning.configuration.schema import DEFAULTS, in_words, options_of, types_of
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.model import THE_PAPERS
from pixelgan_lightning.phases import Phase

OFTEN = {
    "max_epochs": "epochs to train; --trainer.max_steps: batches",
    "accelerator": "cpu, gpu, mps; default: what the machine has",
    "devices": "how many, for example 1; default: all there are",
    "precision": "32-true (default), bf16-mixed, 64-true",
    "check_val_every_n_epoch": "epochs between two validations (default: 1)",
    "log_every_n_steps": "batches between two rows of the log",
    "limit_train_batches": "batches of an epoch: a number, or a part such as 0.1; also limit_val_batches, ...",
    "fast_dev_run": "true: one batch of everything, nothing is written",
}
"""Arguments of the trainer that the first page shows."""

Row = tuple[str, str]


def page(command: str, about: str, topic: str | None = None) -> str:
    """The help of a command of training.

    Args:
        command: its name.
        about: what it does, in one line.
        topic: ``trainer``, or the name of a class; None for the first page.

    Raises:
        ConfigurationError: there is no such topic.
    """
    if topic is None:
        return _first_page(command, about)
    if topic == "trainer":
        return _of_class(pl.Trainer, "--trainer.", "Lightning's trainer")
    for base in (Component, pl.LightningDataModule, Callback, Logger):
        try:
            return _of_class(find(topic, base, "help"), "")
        except ConfigurationError:
            continue
    raise ConfigurationError(f"help={topic} is not usable: allowed are trainer, and the name of a class as Categorical")


def _first_page(command: str, about: str) -> str:
    options = [
        ("--config FILE", "settings in YAML; later files count more, options most; configs/... ship with the package"),
        *((f"--{name} {_value(o.type)}", _with_default(o.help, o.default)) for name, o in options_of(command).items()),
        ("--print_config", "show the whole configuration and stop"),
        ("--help [TOPIC]", "this page; trainer: all options of the trainer; the name of a class: its arguments"),
    ]
    parts = [(f"--model.{name} CLASS", _choice(SLOTS[f"model.{name}"], name)) for name in COMPONENTS]
    others = ", ".join(cls.__name__ for cls in ours(Phase) if cls not in THE_PAPERS.values())
    phases = f"the losses of a step: {', '.join(THE_PAPERS)} by default; null leaves one out; there is also {others}"
    model = [
        *parts,
        ("--model.phases.NAME CLASS", phases),
        ("--model.step HOW", "sequential (default): one phase after the other, as in the paper; fused: in one pass"),
    ]
    data = [("--data CLASS", _choice(pl.LightningDataModule, "data"))]
    trainer = [
        *((f"--trainer.{name} {_type(pl.Trainer, name)}", text) for name, text in OFTEN.items()),
        ("--trainer.callbacks+=CLASS", ", ".join(cls.__name__ for cls in ours(Callback))),
        (
            "--trainer.logger CLASS",
            ", ".join(cls.__name__ for cls in ours(Logger)) + "; false: none",
        ),
    ]
    checkpoint = [(f"--checkpoint.{name}", _text(RunCheckpoint, name)) for name in arguments(RunCheckpoint)]
    return "\n".join(
        [
            f"usage: pixelgan {command} [--config FILE] [--NAME VALUE]",
            "",
            about,
            *_section("Options", options),
            *_section("Model: a class for each part", model),
            *_section("Data", data),
            *_section(f"Trainer, most used (all: pixelgan {command} --help trainer)", trainer),
            *(_section("Checkpoints", checkpoint) if command == "fit" else ()),
            "",
            *_wrapped(
                "A class has arguments of its own, one level deeper: --model.prior.num_categories 20, "
                f"--model.phases.generator.lr 1e-3. pixelgan {command} --help Categorical lists them. A class of your "
                "own is named by its path: --model.prior my_priors.Ring."
            ),
        ]
    )


def _of_class(cls: type, prefix: str, title: str | None = None) -> str:
    about = title or (parse(cls.__doc__ or "").short_description or "").replace("\n", " ")
    rows = [(f"{prefix}{name} {_type(cls, name)}", _text(cls, name)) for name in arguments(cls)]
    return "\n".join([f"{cls.__name__}: {about}", *_section("Arguments", rows or [("none", "")])])


def _section(title: str, rows: Iterable[Row]) -> list[str]:
    lines = ["", f"{title}:"]
    for name, text in rows:
        indent = " " * 30
        wrapped = _wrapped(text, indent)
        head = f"  {name}"
        if len(head) < len(indent) - 1 and wrapped:
            wrapped[0] = head.ljust(len(indent)) + wrapped[0].lstrip()
            lines += wrapped
        else:
            lines += [head, *wrapped]
    return lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.wrap(" ".join(text.split()), max(width, 60), initial_indent=indent, subsequent_indent=indent)


def _choice(base: type, name: str) -> str:
    default = (DEFAULTS["model"].get(name) or {}) if name != "data" else DEFAULTS["data"]
    first = default.get("class_path", "").rpartition(".")[2]
    names = [cls.__name__ for cls in ours(base) if cls.__name__ != first]
    return ", ".join([*([f"{first} (default)"] if first else []), *names])


def _text(cls: type, name: str) -> str:
    """What the docstrings say about an argument, and its default."""
    docstrings = (doc for base in constructors(cls) for doc in (base.__doc__, vars(base)["__init__"].__doc__) if doc)
    described = (parameter for doc in docstrings for parameter in parse(doc).params if parameter.arg_name == name)
    text = next((parameter.description or "" for parameter in described), "").replace("`", "")
    default = arguments(cls)[name].default
    return text if "efault" in text else _with_default(text, default)


def _with_default(text: str, default: Any) -> str:
    return text if default in (None, inspect.Parameter.empty, False) else f"{text.rstrip('.')} (default: {default})"


def _type(cls: type, name: str) -> str:
    return _value(types_of(cls).get(name, Any))


def _value(kind: Any) -> str:
    words = in_words(kind).removesuffix(" or null").upper()
    return {"STR": "TEXT", "INT": "NUMBER", "FLOAT": "NUMBER", "BOOL": "true|false"}.get(words, "VALUE")


__all__ = ["page"]
