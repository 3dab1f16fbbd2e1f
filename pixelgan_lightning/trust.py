"""Which classes a file may name: a checkpoint, an exported folder, the configuration in a run's folder.

Such files come from anywhere. They may name the classes of this package. Code outside of it runs only where the user
has said so: with ``--allow my_priors`` or a configuration of their own on the command line, in Python by importing
the module. Nothing is imported because a file names it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from pixelgan_lightning.errors import ConfigurationError

T = TypeVar("T")
PACKAGE = "pixelgan_lightning"


def trusted_class(class_path: Any, base: type[T], allowed: Collection[str] = (), loaded: bool = True) -> type[T]:
    """The subclass of ``base`` that a file names.

    A class of this package is found by its name, in whichever module of the package the file says it is.

    Args:
        class_path: what the file says.
        base: what the class has to be a subclass of.
        allowed: modules, or packages that hold them, whose code may run.
        loaded: whether a subclass that is in memory already, as its module has been imported, is one too.

    Raises:
        ConfigurationError: there is no such class, or it belongs to another module.
    """
    module, _, name = str(class_path).rpartition(".")
    if not module or _within(module, [PACKAGE]):
        ours = [cls for cls in _subclasses(base) if cls.__name__ == name and _within(cls.__module__, [PACKAGE])]
        if not ours:
            raise ConfigurationError(f"class_path={class_path!r} is not usable: {PACKAGE} has no such {base.__name__}")
        return ours[0]
    if _within(module, allowed):
        found = getattr(import_module(module), name, None)
    else:
        found = vars(sys.modules[module]).get(name) if loaded and module in sys.modules else None
    if not (isinstance(found, type) and issubclass(found, base)):
        top = module.partition(".")[0] or class_path
        raise ConfigurationError(
            f"class_path={class_path!r} is not usable: allowed from a file are {base.__name__} classes of "
            f"{PACKAGE}, and of modules that you trust with --allow {top} (in Python: import {top} first)"
        )
    return found


def require_trusted(content: Any, bases: tuple[type, ...], allowed: Collection[str], loaded: bool = False) -> set[str]:
    """Refuse a configuration from a file that names a class which is not to be trusted, however deep.

    Returns:
        The modules of the classes that it names.

    Raises:
        ConfigurationError: it does.
    """
    modules: set[str] = set()
    for class_path in _class_paths(content):
        cls: type
        for base in bases[:-1]:
            try:
                cls = trusted_class(class_path, base, allowed, loaded)
                break
            except ConfigurationError:
                continue
        else:
            cls = trusted_class(class_path, bases[-1], allowed, loaded)
        modules.add(cls.__module__)
    return modules


def import_for(content: Any, allowed: Collection[str]) -> None:
    """Import those of the ``allowed`` modules that ``content`` names classes of.

    Raises:
        ConfigurationError: that fails.
    """
    for module in sorted(named_modules(content)):
        if _within(module, allowed):
            import_module(module)


def named_modules(content: Any) -> set[str]:
    """The modules of all classes that a configuration names, by their ``class_path``."""
    paths = (path for path in _class_paths(content) if isinstance(path, str))
    return {module for path in paths if _is_module_name(module := path.rpartition(".")[0])}


def module_names(text: Any) -> list[str]:
    """The modules that ``--allow`` names, with commas between.

    Raises:
        ConfigurationError: no module could be called so.
    """
    names = str(text).split(",")
    if not all(map(_is_module_name, names)):
        raise ConfigurationError(f"allow={text!r} is not usable: allowed are names of modules with commas between")
    return names


def look_into_working_folder() -> None:
    """Find modules there: where a user's own classes are. A console script does not do so by itself."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_module(module: str) -> Any:
    look_into_working_folder()
    try:
        return importlib.import_module(module)
    except Exception as error:  # the user's code runs here
        raise ConfigurationError(f"module={module} is not usable: {type(error).__name__}: {error}") from error


def _is_module_name(text: str) -> bool:
    return all(name.isidentifier() for name in text.split("."))


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _subclasses(base: type) -> Iterator[type]:
    for cls in [base, *base.__subclasses__()]:
        yield cls
        if cls is not base:
            yield from _subclasses(cls)


def _class_paths(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        if "class_path" in content:
            yield content["class_path"]
        content = list(content.values())
    if isinstance(content, list | tuple):
        for value in content:
            yield from _class_paths(value)


__all__ = [
    "import_for",
    "look_into_working_folder",
    "module_names",
    "named_modules",
    "require_trusted",
    "trusted_class",
]
