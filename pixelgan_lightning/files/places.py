"""Places of a machine in a configuration: what is published (a model card, W&B) is without them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

NO_PLACES = ("class_path", "monitor")
"""Arguments whose texts look like places and are names."""

FILE = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{0,7}(\.gz)?")


def is_place(value: Any) -> bool:
    """Whether a value names a file or folder, by what it is: whatever its argument is called."""
    if isinstance(value, Path):
        return True
    if not isinstance(value, str) or not value:
        return False
    return value[0] == "~" or "/" in value or "\\" in value or bool(FILE.fullmatch(value)) or Path(value).exists()


def without_places(content: Any) -> Any:
    """``content`` (mappings, lists, plain values) without entries that name files or folders."""
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if k in NO_PLACES or not is_place(v)}
        return {k: v if k in NO_PLACES else without_places(v) for k, v in kept.items()}
    if isinstance(content, list | tuple):
        return [without_places(value) for value in content if not is_place(value)]
    return content


__all__ = ["is_place", "without_places"]
