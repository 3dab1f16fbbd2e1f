"""What the callbacks that go over a whole split have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import SPLITS, require_splits


class EvaluationCallback(pl.Callback, ABC):
    """Measures something over all images of a split, beside a validation or a test.

    For each pass over a split, in this order: :meth:`start` once, :meth:`update` after each batch, :meth:`finish` once.
    Passes over splits that are not wanted, and Lightning's sanity check before training, call none of them.

    Each hook of Lightning runs for all callbacks, in the order of the trainer's list, before the next one begins:

    | here | in a test | in a validation |
    |---|---|---|
    | | `on_test_start` | `on_validation_start` |
    | `start` | `on_test_epoch_start` | `on_validation_epoch_start` |
    | `update` | `on_test_batch_end` | `on_validation_batch_end` |
    | `finish` | `on_test_epoch_end` | `on_validation_epoch_end` |
    | | `on_test_end` | `on_validation_end` |

    What one callback needs of another must be made in an earlier row: then the order of the list does not matter.
    The model has averaged weights (:class:`~pixelgan_lightning.training.averaging.ExponentialMovingAverage`) from
    ``on_validation_start`` until ``on_validation_end``.

    Args:
        splits: which of "val" and "test".

    Raises:
        ConfigurationError: other splits, or none.
    """

    def __init__(self, splits: Sequence[str] = SPLITS) -> None:
        self.splits = require_splits(splits)

    @abstractmethod
    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        """Forget the last pass; ``split`` is "val" or "test"."""

    @abstractmethod
    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        """Add a batch of this process: ``image`` ``[B, C, H, W]``, ``label`` ``[B]`` and ``index`` ``[B]``."""

    @abstractmethod
    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        """Log the result. Runs on all processes, so it may gather from them."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wants(trainer, "val"):
            self.start(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wants(trainer, "test"):
            self.start(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._wants(trainer, "val"):
            self.update(trainer, pl_module, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._wants(trainer, "test"):
            self.update(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wants(trainer, "val"):
            self.finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wants(trainer, "test"):
            self.finish(trainer, pl_module, "test")

    def _wants(self, trainer: pl.Trainer, split: str) -> bool:
        return split in self.splits and not trainer.sanity_checking
