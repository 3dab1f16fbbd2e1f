"""Trained weights that ship with the package, one folder for each model, and how to load them.

A folder holds ``model.safetensors``, ``config.json`` (the arguments of the model) and ``README.md``, the model card:
results, configuration, data, licence, limits. ``pixelgan export`` makes such a folder from a checkpoint.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.weights import CARD, CONFIG

HOME = Path(str(files(__name__)))


def names() -> list[str]:
    """The models that ship with this version of the package."""
    return sorted(path.parent.name for path in HOME.glob(f"*/{CONFIG}"))


def folder(name: str | Path) -> Path:
    """Where a model's files are.

    Args:
        name: one of :func:`names`, or the path of a folder in the same format.

    Raises:
        ConfigurationError: neither.
    """
    if str(name) in names():
        return HOME / str(name)
    if Path(name).is_dir():
        return Path(name)
    known = ", ".join(names()) or "none in this version"
    raise ConfigurationError(
        f"pretrained={name} is not usable: allowed are the names of models that ship with the package ({known}) and "
        "folders made by `pixelgan export`"
    )


def card(name: str | Path) -> str:
    """The model card, in Markdown."""
    return (folder(name) / CARD).read_text()


__all__ = ["card", "folder", "names"]
