"""However a run ends, a checkpoint holds its last step: signals and the end of ``max_time`` at a batch boundary too."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, Timer

from pixelgan_lightning.messages import say

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(Checkpoint):  # Lightning runs callbacks of this class last, when a moving average is up to date
    """Writes ``last.ckpt`` after the batch (or validation) in which SIGTERM or SIGINT came, and exits.

    The run continues from there as if it had not been stopped. Where several processes train, all of them stop after
    the same batch, whichever got the signal. A second signal ends the process at once, without a checkpoint.

    When the trainer's ``max_time`` is over (or that of a ``Timer``), the same happens after the batch. Lightning by
    itself would count the epoch that was cut short as a whole one, and a continued run would leave its rest out.
    For the same reason a run that ``max_steps`` ends within an epoch is saved after its last batch. And a run whose end
    no validation meets (``max_epochs`` is no multiple of ``check_val_every_n_epoch``) is saved after its last epoch:
    ``ModelCheckpoint`` alone would keep what the last validation saw. Both are written by the trainer's
    ``ModelCheckpoint`` callbacks, those with ``save_last``.

    Beside it Lightning adds no ``ModelCheckpoint`` of its own: name one for checkpoints without a signal.

    Args:
        folder: where ``last.ckpt`` goes; None for the folder of the trainer's first ``ModelCheckpoint``, or else
            ``default_root_dir``.

    Raises:
        SystemExit: after the checkpoint; on the first process with status 128 + the signal's number, or with 0 when
            the time was over.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers in the main thread only
        # In place of Lightning's handler of SIGTERM, which calls a collective in the middle of whatever runs.
        self._former = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
        self.received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_if_asked(trainer)
        self._stop_if_time_is_over(trainer)
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if _training_is_over(trainer) and not progress.is_last_batch:
            _save_end(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _training_is_over(trainer):
            _save_end(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self._former:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        asked = self.received is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        path = self._save(trainer)
        name = signal.Signals(self.received or signal.SIGTERM).name
        say(f"stopped by {name} at step {trainer.global_step}; checkpoint: {path}")
        # The launcher of several processes kills the first when another fails, so only the first one does.
        raise SystemExit(128 + (self.received or signal.SIGTERM) if trainer.is_global_zero else 0)

    def _stop_if_time_is_over(self, trainer: pl.Trainer) -> None:
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        if not timers:
            return
        over = trainer.should_stop and any(_is_over(timer) for timer in timers)
        over = over and trainer.fit_loop._can_stop_early  # not before min_epochs and min_steps
        if trainer.world_size > 1:  # their clocks differ
            over = trainer.strategy.reduce_boolean_decision(over, all=False)
        if not over:
            return
        trainer.should_stop = False  # else a validation would be due
        path = self._save(trainer)
        say(f"stopped at step {trainer.global_step}, the time is over; checkpoint: {path}")
        raise SystemExit(0)

    def _save(self, trainer: pl.Trainer) -> Path:
        path = self._path(trainer)
        trainer.save_checkpoint(path)
        return path

    def _path(self, trainer: pl.Trainer) -> Path:
        folders = (
            callback.dirpath for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)
        )
        return Path(self.folder or next(folders, None) or trainer.default_root_dir) / "last.ckpt"

    def _restore_handlers(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()


def _training_is_over(trainer: pl.Trainer) -> bool:
    """At the end of a batch or an epoch: whether it was the last."""
    loop = trainer.fit_loop
    steps_reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs: Any = loop.epoch_progress.current  # its processed is, unlike completed, right in on_train_epoch_end too
    epochs_reached = trainer.max_epochs not in (None, -1) and epochs.processed >= trainer.max_epochs
    return steps_reached or epochs_reached or (trainer.should_stop and loop._can_stop_early)


def _save_end(trainer: pl.Trainer) -> None:
    """Let each ``ModelCheckpoint`` save what it has not saved yet, before an average takes the place of the weights."""
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback._should_skip_saving_checkpoint(trainer):
            continue
        if callback.save_last:
            metrics = callback._monitor_candidates(trainer)
            if callback.monitor is None:
                callback._save_topk_checkpoint(trainer, metrics)
            callback._save_last_checkpoint(trainer, metrics)


def _is_over(timer: Timer) -> bool:
    remaining = timer.time_remaining()
    return remaining is not None and remaining <= 0


__all__ = ["StopOnSignal"]
