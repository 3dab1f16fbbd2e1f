"""What the command line says: one line where something cannot be done, and no noise of libraries."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pixelgan_lightning.errors import ConfigurationError


def is_first_process() -> bool:
    """Whether this is the process that speaks to the user and writes files."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def say(line: str) -> None:
    """One line for the user, from the first process only."""
    if is_first_process():
        print(line, flush=True)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what users can do nothing about: deprecations inside libraries, and advertisements."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addFilter(_no_tips)
    with warnings.catch_warnings():
        for module in (r"jsonargparse", r"pytorch_lightning\.cli", r"pytorch_lightning\.utilities\._pytree"):
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=module)
        # Images are in memory: a loader has nothing to gain from workers. A continued run writes on into its folder.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        try:
            yield
        finally:
            logger.removeFilter(_no_tips)


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def reason(error: BaseException) -> str | None:
    """The message of the :class:`ConfigurationError` that is ``error`` or was wrapped into it by a library."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigurationError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def one_line(message: str, base_classes: Mapping[str, type]) -> str:
    """What an error message of jsonargparse says, in one line: the key, the value, what is wrong and what is allowed.

    jsonargparse lists, indented, why a value fits none of the types that an argument may have, "not None" among them.

    Args:
        message: of the library.
        base_classes: by key, which class an argument takes subclasses of.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if not keys:
        return " ".join(message.split())
    key, value = ".".join(keys), _value(message)
    option = re.search(r"Option '([^']+)' is not accepted", message)
    owner = re.search(r"Problem with given class_path '([^']+)'", message)
    if option and owner:
        name = owner[1].rpartition(".")[2]
        return f"{key}.{option[1]} is unknown: {name} has {', '.join(_parameters(owner[1])) or 'no arguments'}"
    base = base_classes.get(keys[0])
    if base and "Expected a dot import path string" in message:
        names = ", ".join(_names_of_subclasses(base))
        return f"{key}={value} is not usable: allowed are {names}, and the class_path of any {base.__name__}"
    complaint = " or ".join(_complaints(message))
    return f"{key}: {complaint}" if value is None else f"{key}={value} is not usable: {complaint}"


def _value(message: str) -> str | None:
    """The value that was given, as the user wrote it."""
    nested = re.search(r"NestedArg\(key='[^']*', val=(.*)\)", message)
    if nested:
        return nested[1].strip("'\"")
    given = re.search(r"(?:Got value|Given value): (.*)", message)
    return given[1] if given else None


_FRAME = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|Problem with given class_path"
    r"|Expected a path but|Expected a <class 'NoneType'>|Not a valid subclass of|Subclass types expect"
    r"|a class path \(str|a dict with |a dict without "
)
"""Lines that say nothing about what is wrong."""


def _complaints(message: str) -> list[str]:
    lines = [re.sub(r'Parser key "[^"]+":', "", line).strip().removeprefix("- ") for line in message.splitlines()]
    lines = [re.sub(r"\. Got value: .*", "", line) for line in lines if line and not _FRAME.match(line)]
    lines = [re.sub(r"Expected an? <class '(\w+)'>", r"allowed is \1", line) for line in lines]
    return list(dict.fromkeys(lines)) or ["it has the wrong type"]


def _parameters(class_path: str) -> list[str]:
    """Names of the constructor arguments of a class, those that it passes on to its bases included."""
    module, _, name = class_path.rpartition(".")
    names: dict[str, None] = {}
    for cls in getattr(importlib.import_module(module), name).__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        names |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _names_of_subclasses(base: type) -> list[str]:
    """Short names of the subclasses of ``base`` that come with this package."""
    names: set[str] = set()
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        package, _, module = cls.__module__.rpartition(".")
        if (
            package.startswith("pixelgan_lightning.")
            and module != "base"
            and hasattr(sys.modules[package], cls.__name__)
        ):
            names.add(cls.__name__)
        names.update(_names_of_subclasses(cls))
    return sorted(names)
