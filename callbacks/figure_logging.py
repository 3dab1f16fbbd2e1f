"""The one place that knows how each logger takes figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.trainer.states import TrainerFn

from pixelgan_lightning.files.image_files import write


def log_figures(trainer: pl.Trainer, figures: Mapping[str, Figure], step: int) -> list[Path]:
    """Write figures as PNG files and hand them to all loggers that can show them; does nothing but on rank zero.

    The files are ``<default_root_dir>/images/<name>-step<step>.png``, the step with seven digits. TensorBoard and
    Weights & Biases get them as ``images/<name>``; a CSV log has no place for figures.

    Args:
        trainer: gives the folder and the loggers.
        figures: by name.
        step: number of training batches so far, for the names of the files. Loggers get the step at which Lightning
            logs the numbers of the same validation, which within ``fit`` counts from 0.

    Returns:
        Paths of the files in the order of ``figures``, empty on other ranks.
    """
    if not trainer.is_global_zero or not figures:
        return []
    folder = Path(trainer.default_root_dir) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}-step{step:07d}.png" for name in figures}
    for name, figure in figures.items():
        write(paths[name], figure)
    if trainer.state.fn == TrainerFn.FITTING:
        step = max(trainer.global_step - 1, 0)
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
