"""Classes by the names that users give them, and the arguments that they take."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

import pixelgan_lightning.callbacks
import pixelgan_lightning.datamodules  # noqa: F401  (with the one before: their classes are found by short names)
from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.decoders import Decoder
from pixelgan_lightning.discriminators import Discriminator
from pixelgan_lightning.encoders import Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Likelihood
from pixelgan_lightning.phases import Phase
from pixelgan_lightning.phases.optimization import PhaseOptimizer
from pixelgan_lightning.posteriors import Posterior
from pixelgan_lightning.priors import Prior
from pixelgan_lightning.training.loggers import RunWandbLogger
from pixelgan_lightning.trust import PACKAGE, import_module, look_into_working_folder

COMPONENTS: dict[str, type] = {
    "augmentation": Augmentation,
    "prior": Prior,
    "posterior": Posterior,
    "encoder": Encoder,
    "decoder": Decoder,
    "likelihood": Likelihood,
    "discriminator": Discriminator,
}
SLOTS: dict[str, type] = {
    **{f"model.{name}": base for name, base in COMPONENTS.items()},
    "data": pl.LightningDataModule,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
}
"""Settings that name classes, by key; beside them those of ``model.phases``, by names of the user's."""
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "torchmetrics")


def base_of(key: str) -> type | None:
    """What the class that a setting names has to be a subclass of; None where the setting names no class."""
    return Phase if key.startswith("model.phases.") and key.count(".") == 2 else SLOTS.get(key)


def find(name: Any, base: type, key: str) -> type:
    """The class that a user means by a short name or a class path; its module is imported.

    A short name that several packages have (lightning-bolts has an ``MNISTDataModule``) is the class of this one.

    Raises:
        ConfigurationError: there is none, its module cannot be imported, or it is no subclass of ``base``.
    """
    name = str(name)
    if "." not in name or name.startswith(f"{PACKAGE}."):  # of ours: whichever of our modules a file says it is in
        found = {cls.__name__: cls for cls in (*subclasses(base), *ours(base))}.get(name.rpartition(".")[2])
        if found is None:
            allowed = ", ".join(cls.__name__ for cls in ours(base))
            raise ConfigurationError(
                f"{key}={name} is not usable: allowed are {allowed}, and the class_path of any {base.__name__}"
            )
        return found
    module, _, attribute = name.rpartition(".")
    look_into_working_folder()
    try:
        found = getattr(import_module(module), attribute, None)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}={name} is not usable: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigurationError(f"{key}={name} is not usable: allowed are classes of the kind {base.__name__}")
    return found


def ours(base: type) -> list[type]:
    """The subclasses of ``base`` that this package offers, by name."""
    if base is Logger:
        return [CSVLogger, TensorBoardLogger, RunWandbLogger]
    modules = [module for name, module in sys.modules.items() if name.rpartition(".")[0] == PACKAGE]
    homes = [module for module in modules if hasattr(module, "__path__")]
    offered = {cls for cls in subclasses(base) for home in homes if getattr(home, cls.__name__, None) is cls}
    return sorted((cls for cls in offered if not cls.__module__.endswith(".base")), key=lambda cls: cls.__name__)


def subclasses(base: type) -> Iterator[type]:
    """All there are in memory, however deep."""
    direct: list[type] = base.__subclasses__()
    for cls in direct:
        yield cls
        yield from subclasses(cls)


def public_path(cls: type) -> str:
    """The shortest path by which a class can be imported: of the package that gathers it, not of its module."""
    parents = cls.__module__.split(".")
    homes = (".".join(parents[:end]) for end in range(1, len(parents) + 1))
    found = (home for home in homes if getattr(sys.modules.get(home), cls.__name__, None) is cls)
    home = next(found, cls.__module__)
    return f"{home}.{cls.__qualname__}"


def loaded(class_path: str) -> type:
    """The class of a path whose module is in memory."""
    module, _, name = class_path.rpartition(".")
    cls: type = getattr(sys.modules[module], name)
    return cls


def is_same(one: str, other: str) -> bool:
    """Whether two class paths name one class: a package exports classes of its modules."""
    (home, _, name), (other_home, _, other_name) = one.rpartition("."), other.rpartition(".")
    tops = {home.partition(".")[0], other_home.partition(".")[0]}
    return one == other or (name == other_name and len(tops) == 1 and tops <= {PACKAGE, *LIGHTNING})


def constructors(cls: type) -> Iterator[type]:
    """The classes whose constructors take the arguments of ``cls``: itself, and where ``**kwargs`` are handed on to."""
    for base in (*cls.__mro__, *([PhaseOptimizer] if issubclass(cls, Phase) else [])):
        if "__init__" in vars(base):
            yield base
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            if base is not object and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """What the constructor takes, by name."""
    found: dict[str, inspect.Parameter] = {}
    for base in constructors(cls):
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        found |= {
            p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in found
        }
    return found


__all__ = [
    "COMPONENTS",
    "LIGHTNING",
    "SLOTS",
    "arguments",
    "base_of",
    "constructors",
    "find",
    "is_same",
    "loaded",
    "ours",
    "public_path",
    "subclasses",
]
