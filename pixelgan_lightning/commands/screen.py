"""What a terminal shows of a run: a progress bar and a table of results, whole names in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table


class NarrowProgressBar(RichProgressBar):
    """Lightning's bar."""


def results_table(title: str, results: Mapping[str, float]) -> None:
    """Print numbers by name."""
    table = Table(title=title)
    table.add_column("quantity", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for name, value in results.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


__all__ = ["NarrowProgressBar", "results_table"]
