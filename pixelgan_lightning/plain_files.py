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
    require_names(content, what)
    return content


def require_names(content: Any, what: str) -> None:
    """Refuse mappings whose keys are something else than texts, however deep.

    Raises:
        ConfigurationError: there is one.
    """
    for name in content if isinstance(content, dict) else ():
        if not isinstance(name, str):
            raise ConfigurationError(f"{name} in {what} is not usable: allowed are names of settings")
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        require_names(value, what)


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
