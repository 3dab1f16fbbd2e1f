"""How a section of ``make gpu`` hands a result to ``gpu.py``."""

from __future__ import annotations

import json
from typing import Any

MARK = "RESULT "
"""A line of a section's output that begins with it holds a result as JSON."""


def result(**values: Any) -> None:
    """Print a result in one piece."""
    print(MARK + json.dumps(values) + "\n", end="", flush=True)
