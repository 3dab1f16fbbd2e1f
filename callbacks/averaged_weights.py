"""What is drawn and measured uses the moving average of the weights, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging


@contextmanager
def averaged_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let the model have the average of a ``WeightAveraging`` callback, outside of the validation's batches too.

    Lightning puts the training weights back before ``on_validation_end``.
    """
    with ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback._swap_models(pl_module)
                stack.callback(callback._swap_models, pl_module)
        yield
