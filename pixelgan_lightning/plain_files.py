"""Reading small files, those of a run for example, which may be anyone's: what is damaged is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pixelgan_lightning.errors import ConfigurationError


def read_text(path: Path, what: str | None = None) -> str:
    """UTF-8 text.

    Args:
        path: of the file.
        what: it is, for messages; None: its path.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{what or path} is not usable: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what or path} is not usable: {error}") from error


def parse_yaml(text: str, what: str) -> dict[str, Any]:
    """A mapping, as every configuration is one.

    Args:
        text: YAML.
        what: it is, for messages.

    Raises:
        ConfigurationError: it is no YAML, or something else than a mapping.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, for example
        raise ConfigurationError(f"{what} is not usable: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{what} is not usable: it holds {type(content).__name__}; allowed are mappings")
    return content


def read_numbers(path: Path) -> dict[str, float]:
    """Numbers by name, as ``results.json`` has them.

    Raises:
        ConfigurationError: it holds something else, or cannot be read.
    """
    try:
        return {str(name): float(value) for name, value in json.loads(read_text(path)).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not usable: allowed is a JSON object of numbers ({error})") from error


__all__ = ["parse_yaml", "read_numbers", "read_text"]
