"""What a terminal shows of a run: a progress bar and a table of results, with whole names in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class Speed(ProgressColumn):
    """Batches a second, or seconds a batch."""

    def render(self, task: Task) -> Text:
        speed = task.speed or 0.0
        return Text("" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class NarrowProgressBar(RichProgressBar):
    """Lightning's bar, with room for a metric's whole name: each has a line, and none says where the log is."""

    def __init__(self) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_text_delimiter="\n"))

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        description = TextColumn("[progress.description]{task.description}")
        return [description, BarColumn(bar_width=8), MofNCompleteColumn(), TimeRemainingColumn(compact=True), Speed()]

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def results_table(title: str, results: Mapping[str, float]) -> None:
    """Print numbers by name."""
    table = Table(title=title)
    table.add_column("quantity", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for name, value in results.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


__all__ = ["NarrowProgressBar", "results_table"]
