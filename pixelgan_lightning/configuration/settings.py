"""What a user says about a run: options and ``--config`` files, each a dictionary, laid over each other in order.

An option ``--model.decoder.channels 8`` is the dictionary ``{"model": {"decoder": {"channels": 8}}}``. Options count
more than files, later ones more than earlier ones. A class in the place of another starts from its own defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from pixelgan_lightning.configuration.classes import SLOTS, arguments, base_of, find, is_same, loaded, public_path
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.messages import say
from pixelgan_lightning.plain_files import parse_yaml, read_text, require_names
from pixelgan_lightning.trust import PACKAGE, module_names, named_modules

Layer = dict[str, Any]
CONSTANTS = {"true": True, "false": False, "null": None}
FORMER = ("weights_only", "verbose", "return_predictions")  # in files of earlier versions


class Whole(dict[str, Any]):
    """A mapping that says which entries there are: those that it leaves out are gone."""


@dataclass(frozen=True)
class Said:
    """What a command line asks for.

    Attributes:
        layers: dictionaries of settings; a later one counts more.
        print_config: whether to show the configuration instead of using it.
    """

    layers: list[Layer]
    print_config: bool = False

    def option(self, name: str) -> Any:
        """The value of a setting that belongs to no section; None where nothing is said."""
        return next((layer[name] for layer in reversed(self.layers) if name in layer), None)

    def data_class(self) -> str | None:
        """The data module that it names; None where it names none."""
        named = [layer["data"]["class_path"] for layer in self.layers if "class_path" in (layer.get("data") or {})]
        return named[-1] if named else None

    def modules(self) -> set[str]:
        """Modules outside of this package whose code it asks for: of ``--allow``, and of the classes that it names."""
        given = self.option("allow")
        allowed = [] if given is None else module_names(given)
        named = {m for layer in self.layers for m in named_modules(layer)} | {*_dotted_names(self.layers)}
        return {module for module in {*allowed, *named} if module.partition(".")[0] != PACKAGE}


def read(args: Sequence[str]) -> Said:
    """What the arguments of a command say, and the files that they name.

    Raises:
        ConfigurationError: an argument is no option, an option has no value, a file cannot be read, a class is unknown.
    """
    of_files: list[Layer] = []
    options: list[tuple[str, str]] = []
    print_config = False
    rest = [*args]
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name == "--print_config":
            print_config = True
            continue
        if name == "-c":
            name = "--config"
        if not name.startswith("--"):
            raise ConfigurationError(f"unrecognized arguments: {name}{equals}{value} (options are --name value)")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigurationError(f"{name} is not usable without a value")
            value = rest.pop(0)
        if name == "--config":
            of_files.append(_with_classes(read_file(value)))
        else:
            options.append((name.removeprefix("--"), value))
    # The class first, wherever it stands: its arguments are set on it.
    options.sort(key=lambda option: base_of(option[0].removesuffix(".class_path")) is None)
    layers = of_files + [_with_classes(_nested(name, _structured(name, value))) for name, value in options]
    return Said(layers, print_config)


def read_file(name: str) -> Layer:
    """A configuration; ``configs/NAME.yaml`` is the file that ships with the package where there is none of the user's.

    Raises:
        ConfigurationError: there is no such file, or it holds no mapping of settings.
    """
    path = Path(name)
    packaged = Path(str(files("pixelgan_lightning.configs"))) / name.removeprefix("configs/")
    if name.startswith("configs/") and not path.exists() and packaged.is_file():
        say(f"{name}: the file that ships with the package")
        path = packaged
    content = parse_yaml(read_text(path, f"config={name}"), f"config={name}")
    for key in ("trainer", "model", "checkpoint"):
        if not isinstance(content.get(key, {}), dict):
            raise ConfigurationError(f"{key}={content[key]!r} in {name} is not usable: allowed are mappings")
    if content.get("ckpt_path") is not None:
        raise ConfigurationError(f"ckpt_path in {name} is not usable: give it on the command line")
    return with_whole_phases({key: value for key, value in content.items() if key not in FORMER})


def with_whole_phases(layer: Layer) -> Layer:
    """The same, where ``model.phases`` says which phases there are."""
    model = layer.get("model") or {}
    if isinstance(model.get("phases"), dict):
        return {**layer, "model": {**model, "phases": Whole(model["phases"])}}
    return layer


def laid_over(layers: Sequence[Layer], note: bool = False) -> Layer:
    """One dictionary of all, the later ones over the earlier ones.

    Args:
        layers: dictionaries of settings.
        note: say which settings of a class are lost where another one takes its place.
    """
    return dict(reduce(lambda old, new: _merged(old, new, note), layers, {}))


def _merged(old: Any, new: Any, note: bool) -> Any:
    if isinstance(new, Whole):
        former = old if isinstance(old, dict) else {}
        return Whole((name, _merged(former.get(name), value, note)) for name, value in new.items())
    if not isinstance(new, dict):
        return new
    if isinstance(old, list) and old:  # --trainer.callbacks.columns 4: of the one that was named last
        return [*old[:-1], _merged(old[-1], new, note)]
    if isinstance(old, str):
        old = {"class_path": old}
    if "class_path" in new:
        if not (isinstance(old, dict) and "class_path" in old):
            return new
        if not is_same(old["class_path"], new["class_path"]):
            if note:
                _note_what_is_lost(old, new)
            return new
    elif isinstance(old, dict) and "class_path" in old and not new.keys() <= {"init_args", "dict_kwargs"}:
        new = {"init_args": new}
    result: Any = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if name.endswith("+"):
            before = result.get(name[:-1]) or []
            more = value if isinstance(value, list) else [value]
            result[name[:-1]] = [*(before if isinstance(before, list) else [before]), *more]
        else:
            result[name] = _merged(result.get(name), value, note)
    return type(old)(result) if isinstance(old, Whole) else result


def _note_what_is_lost(old: Layer, new: Layer) -> None:
    taken = arguments(loaded(new["class_path"]))
    names = [str(spec["class_path"]).rpartition(".")[2] for spec in (old, new)]
    for name, value in (old.get("init_args") or {}).items():
        if name in taken and name not in (new.get("init_args") or {}):
            # Standard output may be that of --print_config.
            print(f"{name}={value!r} of {names[0]} does not carry over to {names[1]}", file=sys.stderr)


def _nested(name: str, value: Any) -> Layer:
    return reduce(lambda inner, key: {key: inner}, reversed(name.split(".")), value)


def _structured(name: str, value: str) -> Any:
    """Mappings, and lists of them, are read; what else a text means is for the type of its argument to say."""
    if value[:1] not in ("{", "["):
        return value
    try:
        content = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name}={value} is not usable: {' '.join(str(error).split())}") from error
    require_names(content, name)
    if isinstance(content, dict):
        return Whole(content) if name == "model.phases" else content
    return content if any(isinstance(part, dict) for part in content) else value


def _with_classes(layer: Layer) -> Layer:
    """The same with the path of each class that a setting names; the modules are imported."""
    result = dict(layer)
    for key in SLOTS:
        section, _, name = key.partition(".")
        inside = result.get(section)
        if not name and section in result:
            result[section] = _spec(inside, key)
        elif isinstance(inside, dict):
            specs = {n: _spec(inside[n], key) for n in (name, f"{name}+") if n in inside}
            result[section] = {**inside, **specs}
    phases = (result.get("model") or {}).get("phases")
    if isinstance(phases, dict):
        specs = {name: _spec(value, f"model.phases.{name}") for name, value in phases.items()}
        result["model"] = {**result["model"], "phases": type(phases)(specs)}
    return result


def _spec(value: Any, key: str) -> Any:
    """A class and its arguments from whatever names a class."""
    if isinstance(value, list):
        return [_spec(one, key) for one in value]
    if isinstance(value, dict):
        return {**value, "class_path": _path(value["class_path"], key)} if "class_path" in value else value
    if value is None or isinstance(value, bool) or value in CONSTANTS:
        return CONSTANTS.get(value, value)
    return {"class_path": _path(value, key)}


def _path(name: Any, key: str) -> str:
    base = base_of(key)
    assert base is not None
    return public_path(find(name, base, key))


def _dotted_names(content: Any) -> Iterator[str]:
    """Modules of texts that look like the path of a class, however deep."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _dotted_names(value)
    elif isinstance(content, str):
        module, dot, name = content.rpartition(".")
        if dot and all(part.isidentifier() for part in (*module.split("."), name)) and not Path(content).exists():
            yield module


__all__ = ["Layer", "Said", "Whole", "laid_over", "read", "read_file", "with_whole_phases"]
