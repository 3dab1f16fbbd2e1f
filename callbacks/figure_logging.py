"""The one place that knows how each logger takes figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger


def trained_steps(pl_module: pl.LightningModule) -> int:
    """Batches that the weights were trained on, also where a test or validation has loaded them from a checkpoint."""
    return pl_module.global_step or getattr(pl_module, "checkpoint_step", 0)


def log_figures(trainer: pl.Trainer, figures: Mapping[str, Figure], step: int) -> list[Path]:
    """Write figures as PNG files and hand them to all loggers that can show them; does nothing but on rank zero.

    The files are ``<default_root_dir>/images/<name>-step<step>.png``, the step with seven digits. TensorBoard and
    Weights & Biases get them as ``images/<name>``; a CSV log has no place for figures.

    Args:
        trainer: gives the folder and the loggers.
        figures: by name.
        step: number of training batches so far, what Lightning's own metrics are logged at.

    Returns:
        Paths of the files in the order of ``figures``, empty on other ranks.
    """
    if not trainer.is_global_zero or not figures:
        return []
    folder = Path(trainer.default_root_dir) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}-step{step:07d}.png" for name in figures}
    for name, figure in figures.items():
        # Replacing is atomic: whoever watches the folder never sees half a file.
        unfinished = paths[name].with_suffix(".png.tmp")
        figure.savefig(unfinished, format="png", dpi=figure.dpi)
        os.replace(unfinished, paths[name])
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, figure in figures.items():
                logger.experiment.add_figure(f"images/{name}", figure, step)
        elif isinstance(logger, WandbLogger):
            import wandb  # slow to import, and not needed without this logger

            # One call: W&B advances its own step with each, and images of separate calls never stand side by side.
            images = {f"images/{name}": wandb.Image(str(path)) for name, path in paths.items()}
            logger.experiment.log({**images, "trainer/global_step": step})
    return list(paths.values())
