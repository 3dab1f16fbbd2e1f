"""Where the codes of the images lie, beside the prior they should look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from pixelgan_lightning.callbacks.arguments import exact_device, is_due, require_at_least
from pixelgan_lightning.callbacks.evaluation import EvaluationCallback
from pixelgan_lightning.callbacks.figure_logging import log_figures
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.category_classes import class_names
from pixelgan_lightning.random import keyed_generator


class LatentScatter(EvaluationCallback):
    """Draws two dimensions of the codes as points coloured by class, over samples of the prior in grey.

    The figure is ``codes`` after a validation and ``test_codes`` after a test, drawn on rank zero from the images of
    all processes. Images are taken in the order of the split, so the figure is the same on any number of processes.

    Args:
        every_n_epochs: draw after the validations of every n-th epoch.
        max_images: how many images, and samples of the prior, at least 1.
        dimensions: which two numbers of the code are drawn, from left to right and from bottom to top.

    Raises:
        ConfigurationError: values out of range, or at setup a code that does not have these dimensions.
    """

    def __init__(self, every_n_epochs: int = 1, max_images: int = 2000, dimensions: Sequence[int] = (0, 1)) -> None:
        super().__init__()
        require_at_least("every_n_epochs", every_n_epochs, 1)
        require_at_least("max_images", max_images, 1)
        if len(dimensions) != 2 or min(dimensions) < 0:
            raise ConfigurationError(f"dimensions={list(dimensions)} is not usable: allowed are two numbers >= 0")
        self.every_n_epochs, self.max_images, self.dimensions = every_n_epochs, max_images, list(dimensions)
        self._rows: list[Tensor] = []

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if max(self.dimensions) >= pl_module.prior.code_dim:
            raise ConfigurationError(
                f"dimensions={self.dimensions} is not usable with prior={type(pl_module.prior).__name__}: allowed are "
                f"numbers below {pl_module.prior.code_dim}, the dimension of the code"
            )

    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        self._rows = []

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        # Any process may have the first images of the split, so each keeps as many as are drawn.
        if sum(map(len, self._rows)) < self.max_images:
            codes = pl_module.encode(batch["image"])[:, self.dimensions].to(exact_device(pl_module)).double()
            # In one tensor: float64 holds labels and indices exactly.
            self._rows.append(
                torch.cat([codes, batch["label"][:, None].to(codes), batch["index"][:, None].to(codes)], 1)
            )

    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        if is_due(trainer, self.every_n_epochs):
            self._draw(trainer, pl_module, "codes" if split == "val" else "test_codes")

    def _draw(self, trainer: pl.Trainer, pl_module: Any, name: str) -> None:
        rows = torch.cat([torch.zeros(0, 4, dtype=torch.float64, device=exact_device(pl_module)), *self._rows])
        self._rows = []
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rows = torch.cat(gather_all_tensors(rows))
        if not trainer.is_global_zero:
            return
        rows = rows[rows[:, 3].argsort()][: self.max_images]
        with torch.random.fork_rng(devices=[]):  # priors of the user's own may draw from the global stream
            prior = pl_module.prior.sample(len(rows), keyed_generator(0, "latent scatter"))[:, self.dimensions]
        names = class_names(getattr(trainer, "datamodule", None), pl_module.num_classes)
        figure = figures.code_scatter(rows[:, :2], rows[:, 2].long(), prior, names=names)
        log_figures(trainer, {name: figure}, pl_module.global_step)
