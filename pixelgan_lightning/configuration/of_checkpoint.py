"""The configuration of a command: what is said, over what a checkpoint brings along where one is named.

The model is that of the checkpoint: ``fit`` refuses what is said otherwise, the other commands name it and go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pixelgan_lightning.component import Component
from pixelgan_lightning.configuration.classes import is_same
from pixelgan_lightning.configuration.schema import FROM_DATA, Schema, may_import
from pixelgan_lightning.configuration.settings import Layer, Said, with_whole_phases
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.run_config import Taken, taken
from pixelgan_lightning.files.run_folder import CONFIG, checkpoint_file, run_of
from pixelgan_lightning.files.weights import Stored, read_checkpoint
from pixelgan_lightning.messages import say
from pixelgan_lightning.plain_files import read_text
from pixelgan_lightning.trust import look_into_working_folder, require_trusted


@dataclass(frozen=True)
class Resolved:
    """What a command works with.

    Attributes:
        config: the whole configuration.
        stored: the content of the checkpoint; None without one.
    """

    config: Namespace
    stored: Stored | None = None


def resolved(command: str, said: Said, schema: Schema) -> Resolved:
    """The configuration of a command.

    Raises:
        ConfigurationError: it cannot be used, or is not that of the checkpoint.
    """
    allowed = said.modules()
    if allowed:
        look_into_working_folder()
    may_import(allowed)
    if said.option("ckpt_path") is None:
        config = schema.parsed(said.layers, note=True)
        _require_seed(config.seed_everything)
        return Resolved(config)
    if said.option("init_from") is not None:
        raise ConfigurationError(
            f"init_from={said.option('init_from')} with ckpt_path is not usable: allowed is one of them"
        )
    path = checkpoint_file(said.option("ckpt_path"), said.option("run_dir"))
    stored = read_checkpoint(path)
    run = _of_run(stored.run_config, path, allowed, said.data_class())
    may_import({*allowed, *run.modules, *_trusted_modules(stored.description, path, allowed)})
    layers = [_of_model(stored.description), run.content]
    config = schema.parsed([*layers, *said.layers], note=True)
    _require_seed(config.seed_everything)
    before = schema.parsed(layers)
    if command == "fit":
        if config.seed_everything != before.seed_everything:
            raise ConfigurationError(
                f"seed_everything={config.seed_everything} does not continue a run with "
                f"seed_everything={before.seed_everything}: allowed is the same"
            )
        changed = _differences(config.data.as_dict(), before.data.as_dict(), "data")
        if run.data_left is not None:
            changed = [("data", config.data.class_path, run.data_left)]
        for key, mine, theirs in changed:
            say(f"{key}: {mine!r} from here on, the run had {theirs!r}")
    for key, mine, theirs in _differences(config.model.as_dict(), before.model.as_dict(), "model"):
        if command == "fit":
            raise ConfigurationError(
                f"{key}={mine!r} does not continue a run with {theirs!r}: allowed is the same (for a new run from its "
                "weights --init_from in place of --ckpt_path)"
            )
        say(f"{key}: {mine!r} is not used, the checkpoint has {theirs!r}")
    before.model.seed = config.model.seed
    config.model, config.ckpt_path = before.model, str(path)
    return Resolved(config, stored)


def _require_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigurationError(f"seed_everything={seed} is not usable: allowed are 0 to {2**32 - 1}")


def _of_model(description: dict[str, Any]) -> Layer:
    """What a checkpoint decides about the model; its data decide about shapes."""
    model = {name: value for name, value in description.items() if name not in ("seed", *FROM_DATA)}
    return with_whole_phases(
        {"model": model, **({"seed_everything": description["seed"]} if "seed" in description else {})}
    )


def _of_run(stored: str | None, checkpoint: Path, allowed: set[str], data_class: str | None) -> Taken:
    """What is taken of the configuration of a checkpoint's run; of its data those of ``data_class``, None for all.

    A checkpoint holds the configuration of its own part of the run: that of the continuation, after one. Where
    it has none, the run's folder may have the file.
    """
    config = run_of(checkpoint) / CONFIG
    if stored is not None:
        where = f"that of the run, stored in {checkpoint}"
    elif config.is_file():
        stored, where = read_text(config), str(config)
    else:
        return Taken()

    def wanted(path: str) -> bool:
        short = "." not in path and data_class is not None and data_class.endswith(f".{path}")
        return data_class is None or short or is_same(data_class, path)

    run = taken(stored, where, allowed, wanted)
    say(f"configuration: {where}")
    if run.left:
        say(f"not taken from there, to be given again where wanted: {', '.join(run.left)}")
    return run


def _trusted_modules(description: dict[str, Any], path: Path, allowed: set[str]) -> set[str]:
    """The modules of the components in a checkpoint.

    Raises:
        ConfigurationError: one of them is not to be trusted.
    """
    try:
        return require_trusted(description, (Component,), allowed, loaded=True)
    except ConfigurationError as error:
        raise ConfigurationError(f"ckpt_path={path} is not usable: {error}") from None


def _differences(given: Any, stored: Any, key: str) -> list[tuple[str, Any, Any]]:
    """Leaves in which ``given`` differs from ``stored``: ``(key, given, stored)``; a class, where these differ."""
    if isinstance(given, dict) and isinstance(stored, dict):
        one, other = (value.get("class_path") for value in (given, stored))
        if one == other or (one and other and is_same(one, other)):
            names = [name for name in dict.fromkeys([*stored, *given]) if name != "class_path"]
            return [d for n in names for d in _differences(given.get(n), stored.get(n), f"{key}.{n}")]
    mine, theirs = (_shown(value) for value in (given, stored))
    return [] if mine == theirs else [(key, mine, theirs)]


def _shown(value: Any) -> Any:
    """Of a component its class; a list where there was a tuple, as files have it."""
    if isinstance(value, dict) and "class_path" in value:
        return value["class_path"]
    return list(value) if isinstance(value, tuple) else value


__all__ = ["Resolved", "resolved"]
