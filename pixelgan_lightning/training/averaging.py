"""An exponential moving average of the weights: what is measured, drawn, saved and exported is the average.

``average = decay * average + (1 - decay) * weights`` after every batch (Polyak and Juditsky, 1992, with a window).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pixelgan_lightning.errors import ConfigurationError

TRAINED = "current_model_state"
"""Where a checkpoint has the weights that training goes on with; its ``state_dict`` is the average."""


class ExponentialMovingAverage(pl.Callback):
    """Averages parameters and persistent buffers, on the model's device.

    The model has the average in each validation within ``fit`` and from the end of ``fit`` on; a checkpoint has it as
    its ``state_dict``, so that ``test``, ``sample`` and ``export`` use it. Until the average begins it is the weights
    themselves. It begins as the weights behind the batch number ``update_starting_at_step``, counted from 0.

    Args:
        decay: how much of the average stays at each step, at least 0 and below 1.
        update_starting_at_step: batches before the average begins.

    Raises:
        ConfigurationError: values out of these ranges; a checkpoint to be continued that Lightning's
            ``WeightAveraging`` has written.
    """

    def __init__(self, decay: float = 0.999, update_starting_at_step: int = 0) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigurationError(f"decay={decay!r} is not usable: allowed are numbers >= 0 and < 1")
        if update_starting_at_step < 0:
            raise ConfigurationError(
                f"update_starting_at_step={update_starting_at_step!r} is not usable: allowed are integers >= 0"
            )
        self.decay, self.update_starting_at_step = decay, update_starting_at_step
        self._update = get_ema_multi_avg_fn(decay)
        self._other: dict[str, Tensor] | None = None  # the average; the training weights while the model has that
        self._model_has_average = False
        self._model: weakref.ref[pl.LightningModule] | None = None  # whose weights these are

    @property
    def begun(self) -> bool:
        """Whether there is an average beside the weights."""
        return self._other is not None

    @contextmanager
    def in_model(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Let the model have the average, and its own weights again, to the bit, at the end."""
        swap = self.begun and not self._model_has_average
        if swap:
            self._swap(pl_module)
        try:
            yield
        finally:
            if swap:
                self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        assert self._other is not None
        tensors = _tensors(pl_module.state_dict())
        held = {name: tensor.clone() for name, tensor in tensors.items()}  # all of them first: weights may be shared
        for name, tensor in tensors.items():
            tensor.copy_(self._other[name])
        self._other, self._model_has_average = held, not self._model_has_average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self._model is None or self._model() is not pl_module:
            self._other, self._model_has_average = None, False
        elif self._model_has_average:  # a second fit goes on with the weights
            self._swap(pl_module)
        self._model = weakref.ref(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._other is not None:  # a checkpoint is read before the model goes to its device
            tensors = _tensors(pl_module.state_dict())
            self._other = {name: tensor.to(tensors[name].device) for name, tensor in self._other.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self.update_starting_at_step:
            return
        tensors = _tensors(pl_module.state_dict())
        if self._other is None:
            self._other = {name: tensor.clone() for name, tensor in tensors.items()}
            return
        averaged = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        self._update([self._other[name] for name in averaged], [tensors[name] for name in averaged], 0)
        for name in tensors.keys() - set(averaged):  # counters
            self._other[name].copy_(tensors[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self.begun and not self._model_has_average:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self._model_has_average:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.begun:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._other is None:
            return
        own, other = checkpoint["state_dict"], {**checkpoint["state_dict"], **self._other}
        average, trained = (own, other) if self._model_has_average else (other, own)
        checkpoint["state_dict"], checkpoint[TRAINED] = average, trained

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._other, self._model_has_average = None, False
        if trainer.state.fn == TrainerFn.FITTING and TRAINED in checkpoint:
            self._other = {name: tensor.clone() for name, tensor in _tensors(checkpoint["state_dict"]).items()}
            pl_module.load_state_dict(checkpoint[TRAINED])


def _tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """Those of a state dict, which share their memory with the model."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def averages(trainer: pl.Trainer) -> list[ExponentialMovingAverage]:
    """The trainer's averages."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ExponentialMovingAverage)]


@contextmanager
def averaged_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Within ``fit``: let the model have the average of its weights, where there is one."""
    with ExitStack() as stack:
        if trainer.state.fn == TrainerFn.FITTING:
            for average in averages(trainer):
                stack.enter_context(average.in_model(pl_module))
        yield


def change_weights(trainer: pl.Trainer, pl_module: pl.LightningModule, change: Callable[[], None]) -> None:
    """Let ``change`` write into the model's weights, and then in the same way into their average."""
    change()
    for average in averages(trainer):
        if average.begun:
            with average.in_model(pl_module):
                change()


def require_own_average(trainer: pl.Trainer) -> None:
    """Refuse averages that pictures and continued runs know nothing of.

    Raises:
        ConfigurationError: Lightning's ``WeightAveraging``, or several averages.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    theirs = [type(callback).__name__ for callback in callbacks if isinstance(callback, WeightAveraging)]
    mine = [type(average).__name__ for average in averages(trainer)]
    if theirs or len(mine) > 1:
        raise ConfigurationError(
            f"callbacks={[*theirs, *mine]} is not usable: allowed is one ExponentialMovingAverage (its arguments are "
            "decay and update_starting_at_step)"
        )


def require_average(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to continue a run whose weights or whose average would be lost.

    Raises:
        ConfigurationError: the checkpoint has an average and the trainer none, or Lightning's average.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    if "averaging_state" in checkpoint:
        raise ConfigurationError(
            "ckpt_path is not usable with fit: its average was made by Lightning's WeightAveraging; allowed are test, "
            "sample and export, and for a new run from its weights --init_from"
        )
    if TRAINED in checkpoint and not averages(trainer):
        raise ConfigurationError(
            "callbacks without ExponentialMovingAverage do not continue a run that averages its weights: allowed is "
            "the run's own configuration"
        )


__all__ = [
    "TRAINED",
    "ExponentialMovingAverage",
    "averaged_weights",
    "averages",
    "change_weights",
    "require_average",
    "require_own_average",
]
