"""What priors, posteriors, encoders, decoders, discriminators and likelihoods have in common.

A component is first described (``GatedPixelCNN(channels=32)``) and later built, once the model knows the shapes. It
remembers the arguments it was constructed with, so that a checkpoint can hold its description in plain containers
(``{"class_path": ..., "init_args": ...}``, the form that YAML configs use too) and never a pickled object.
"""

from __future__ import annotations

import copy
import inspect
from contextlib import suppress
from numbers import Integral, Real
from typing import Any, Self, TypeVar

from torch import nn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.trust import trusted_class

Description = dict[str, Any]
C = TypeVar("C", bound="Component")


class Component(nn.Module):
    """An ``nn.Module`` that knows how it was constructed."""

    _init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # bind_partial: copy and unpickling call __new__ without arguments and restore __dict__ afterwards.
        signature = inspect.signature(cls.__init__)
        init_args = signature.bind_partial(self, *args, **kwargs).arguments
        init_args.pop(next(iter(init_args)))  # self
        for name in [name for name in init_args if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD]:
            init_args |= init_args.pop(name)
        object.__setattr__(self, "_init_args", init_args)
        return self

    def describe(self) -> Description:
        """The class path and constructor arguments, in plain containers (nested components are described too).

        Defaults are among them: what a later version makes of a checkpoint does not depend on its defaults.

        Raises:
            ConfigurationError: a checkpoint could not hold an argument, or find the class again.
        """
        cls = type(self)
        if "." in cls.__qualname__:
            raise ConfigurationError(
                f"{cls.__name__} is defined inside of {cls.__qualname__.rpartition('.')[0]}, where a checkpoint could "
                "not find it again: allowed are classes at the top of a module"
            )
        parameters = inspect.signature(cls.__init__).parameters
        for name in self._init_args:
            if name in parameters and parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                raise ConfigurationError(
                    f"*{name} of {cls.__name__} is not usable: allowed are arguments with names, to be stored"
                )
        init_args = {}
        for name, default in defaults(cls).items():
            with suppress(ConfigurationError):  # a default that is code stays where it is
                init_args[name] = _plain(default, name)
        init_args |= {k: _plain(v, f"{k} of {cls.__name__}") for k, v in self._init_args.items()}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}


def defaults(cls: type) -> dict[str, Any]:
    """Arguments that a class has values for; where it hands ``**kwargs`` on, those of its bases too."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def hands_on(cls: type, base: type) -> bool:
    """Whether ``cls`` takes every argument of ``base``: each class between them has ``**kwargs``."""
    between = [c for c in cls.__mro__[: cls.__mro__.index(base)] if "__init__" in vars(c)]
    signatures = [inspect.signature(vars(c)["__init__"]).parameters.values() for c in between]
    return all(any(p.kind is p.VAR_KEYWORD for p in parameters) for parameters in signatures)


def _plain(value: Any, what: str) -> Any:
    """What a checkpoint can hold without holding code."""
    if isinstance(value, Component):
        return value.describe()
    if isinstance(value, dict):
        return {k: _plain(v, what) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, what) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise ConfigurationError(
        f"{what}={value!r} is not usable: a checkpoint could not hold it; allowed are numbers, strings, true, false, "
        "null, lists and dictionaries of them, and components"
    )


def construct(what: C | Description, base: type[C]) -> C:
    """A fresh, unbuilt component from an instance (its own is left alone) or a description.

    Raises:
        ConfigurationError: it is no class of this package, and of no module that has been imported
            (:func:`~pixelgan_lightning.trust.trusted_class`), or no subclass of ``base``.
    """
    if isinstance(what, base):
        return copy.deepcopy(what)
    if not isinstance(what, dict) or "class_path" not in what:
        raise ConfigurationError(
            f"{base.__name__.lower()}={what!r} is not usable: allowed are a {base.__name__} or a dictionary with "
            "class_path and init_args"
        )
    cls = trusted_class(what["class_path"], base)
    return cls(**{k: construct_nested(v) for k, v in (what.get("init_args") or {}).items()})


def construct_nested(value: Any) -> Any:
    """``value`` with a component in place of every description in it."""
    if isinstance(value, dict) and "class_path" in value:
        return construct(value, Component)
    if isinstance(value, dict):
        return {k: construct_nested(v) for k, v in value.items()}
    if isinstance(value, list):
        return [construct_nested(v) for v in value]
    return value
