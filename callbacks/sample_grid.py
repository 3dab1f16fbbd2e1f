"""Pictures of what the decoder draws: samples by code, reconstructions, and the manifold of a 2-D code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import is_due, require_at_least
from pixelgan_lightning.callbacks.cluster_accuracy import current_classes
from pixelgan_lightning.callbacks.figure_logging import log_figures
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.evaluation.code_rows import code_rows, number_of_rows
from pixelgan_lightning.random import keyed_generator
from pixelgan_lightning.training.averaging import averaged_weights


class SampleGrid(pl.Callback):
    """Draws figures after a validation, at the end of training and after a test, on rank zero.

    - ``samples``: one code per row, the decoder's own randomness along the row. With categories there is a row for
      each, labelled ``k=12``, or ``3  (k=12)`` where a :class:`ClusterAccuracy` callback maps category 12 to the digit
      3 (by best example); a continuous style beside them changes from column to column. With components (a mixture)
      there is a row for each, of codes drawn from it. With any other prior there are ``columns`` rows (at most
      ``max_rows``), whose codes are drawn once and for all
      (:func:`~pixelgan_lightning.evaluation.code_rows.code_rows`).
    - ``manifold``: images at a regular grid of codes, for priors that have one (2-D; for a Gaussian at its quantiles).
    - ``reconstructions``: the first images of the first validation (test) batch, each beside a sample of ``p(x|z)`` at
      its code.

    Names are prefixed by ``test_`` after a test. All draws are keyed by ``seed``: the same codes and the same noise at
    every step, and neither the global random stream nor the training is disturbed.

    Args:
        every_n_epochs: draw after the validations of every n-th epoch (and always when training ends).
        columns: samples per row, at least 1.
        max_rows: rows of ``samples``, at least 1; codes beyond them are not shown.
        seed: key of the random draws.
        temperature: of the decoder's sampling, positive; 1 is the model's own distribution.
        reconstructions: number of images to reconstruct, 0 for no such figure.
        manifold_side: images per side of the manifold, 0 for no such figure.

    Raises:
        ConfigurationError: values out of these ranges.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        columns: int = 10,
        max_rows: int = 30,
        seed: int = 0,
        temperature: float = 1.0,
        reconstructions: int = 16,
        manifold_side: int = 10,
    ) -> None:
        require_at_least("every_n_epochs", every_n_epochs, 1)
        require_at_least("columns", columns, 1)
        require_at_least("max_rows", max_rows, 1)
        require_at_least("reconstructions", reconstructions, 0)
        require_at_least("manifold_side", manifold_side, 0)
        if not 0.0 < temperature < float("inf"):
            raise ConfigurationError(f"temperature={temperature!r} is not usable: allowed are finite numbers > 0")
        self.every_n_epochs, self.columns, self.max_rows = every_n_epochs, columns, max_rows
        self.seed, self.temperature = seed, temperature
        self.reconstructions, self.manifold_side = reconstructions, manifold_side
        self._inputs: Tensor | None = None
        self._drawn_at: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Whether the picture at the end of a continued training is drawn already."""
        return {"drawn_at": self._drawn_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn_at = state_dict["drawn_at"]

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and dataloader_idx == 0:
            self._inputs = batch["image"][: self.reconstructions].detach().clone()

    on_test_batch_end = on_validation_batch_end

    # The hooks below run after all callbacks' on_..._epoch_end: a mapping of the categories is then up to date.
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and is_due(trainer, self.every_n_epochs):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._drawn_at != pl_module.global_step:
            self._draw(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module, prefix="test_")

    @torch.no_grad()
    def _draw(self, trainer: pl.Trainer, pl_module: Any, prefix: str = "") -> None:
        self._drawn_at = pl_module.global_step
        if not trainer.is_global_zero:
            return
        # Priors of the user's own may draw from the global stream in spite of the generator they are given.
        with torch.random.fork_rng(devices=[]), averaged_weights(trainer, pl_module):
            drawn = {"samples": self._samples(trainer, pl_module)}
            codes = pl_module.prior.manifold(self.manifold_side) if self.manifold_side else None
            if codes is not None:
                drawn["manifold"] = figures.manifold(self._decode(pl_module, codes), self.manifold_side)
            if self._inputs is None:  # a continued training that no validation has come in
                self._inputs = _first_images(trainer, self.reconstructions)
            if self._inputs is not None and len(self._inputs):
                outputs = self._decode(pl_module, pl_module.encode(self._inputs.to(pl_module.device)))
                drawn["reconstructions"] = figures.reconstructions(self._inputs, outputs)
        log_figures(trainer, {prefix + name: figure for name, figure in drawn.items()}, pl_module.global_step)

    def _samples(self, trainer: pl.Trainer, pl_module: Any) -> Figure:
        total = number_of_rows(pl_module.prior)
        rows = None if total is None else range(min(total, self.max_rows))
        generator = keyed_generator(self.seed, "sample grid")
        codes, numbers, categories = code_rows(pl_module.prior, self.columns, generator, rows)
        codes = codes[: self.max_rows]
        labels = None
        if numbers is not None:
            labels = _row_labels(numbers, current_classes(trainer)) if categories else [str(i) for i in numbers]
        images = self._decode(pl_module, codes.flatten(0, 1))
        return figures.image_rows(images.unflatten(0, codes.shape[:2]), labels)

    def _decode(self, pl_module: Any, codes: Tensor) -> Tensor:
        return pl_module.sample(codes.to(pl_module.device), seed=self.seed, temperature=self.temperature)


def _first_images(trainer: pl.Trainer, number: int) -> Tensor | None:
    """Of the first validation batch, as a validation would have seen them; None without validation images."""
    data = getattr(trainer, "datamodule", None)
    loaders = trainer.val_dataloaders or (data.val_dataloader() if data is not None else None)
    batch = next(iter(loaders[0] if isinstance(loaders, list) else loaders), None) if loaders else None
    return None if batch is None else batch["image"][:number]


def _row_labels(categories: Sequence[int], classes: CategoryClasses | None) -> list[str]:
    names = ["" if classes is None else classes.name_of_category(k) for k in categories]
    return [f"{name}  (k={k})" if name else f"k={k}" for k, name in zip(categories, names, strict=True)]
