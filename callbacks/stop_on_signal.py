"""A signal, and the end of ``max_time``, end a run behind a batch, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, Timer

from pixelgan_lightning.callbacks.run_checkpoint import LAST, RunCheckpoint, can_stop
from pixelgan_lightning.messages import say

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(Checkpoint):  # Lightning calls these callbacks last: a moving average is up to date
    """Writes ``last.ckpt`` after the batch (or validation) in which SIGTERM or SIGINT came, and exits.

    The run continues from there as if it had not been stopped. Where several processes train, all of them stop after
    the same batch, whichever got the signal. Behind an epoch's last batch the checkpoint is written at once, and once
    more behind the validation that comes then, which is finished first. A second signal ends the process at once.

    When the trainer's ``max_time`` is over (or that of a ``Timer``), the same happens after the batch. Lightning by
    itself would count the epoch that was cut short as a whole one, and a continued run would leave its rest out.

    Args:
        folder: where ``last.ckpt`` goes; None for the folder of the trainer's checkpoints, or else its
            ``default_root_dir``.

    Raises:
        SystemExit: after the checkpoint; on the first process with status 128 + the signal's number, or with 0 when
            the time was over.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.received: int | None = None
        self._asked = False  # known to all processes
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.received, self._asked = None, False
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
        epoch_ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._ask(trainer)
        if self._asked and epoch_ends:
            self._save(trainer)
        elif self._asked:
            self._stop(trainer)
        elif not epoch_ends and self._time_is_over(trainer):
            trainer.should_stop = False  # else a validation would be due
            path = self._save(trainer)
            say(f"stopped at step {trainer.global_step}, the time is over; checkpoint: {path}")
            raise SystemExit(0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self._former:
            self._ask(trainer)
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def _ask(self, trainer: pl.Trainer) -> None:
        self._asked = self._asked or self.received is not None
        if trainer.world_size > 1:
            self._asked = trainer.strategy.reduce_boolean_decision(self._asked, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        if not self._asked:
            return
        path = self._save(trainer)
        name = signal.Signals(self.received or signal.SIGTERM).name
        say(f"stopped by {name} at step {trainer.global_step}; checkpoint: {path}")
        # The launcher of several processes kills the first when another fails, so only the first one does.
        raise SystemExit(128 + (self.received or signal.SIGTERM) if trainer.is_global_zero else 0)

    def _time_is_over(self, trainer: pl.Trainer) -> bool:
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        if not timers:
            return False
        over = trainer.should_stop and any(_is_over(timer) for timer in timers) and can_stop(trainer)
        if trainer.world_size > 1:  # their clocks differ
            over = trainer.strategy.reduce_boolean_decision(over, all=False)
        return bool(over)

    def _save(self, trainer: pl.Trainer) -> Path:
        mine = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
        if self.folder is None and mine:
            return mine[0].save_last(trainer)
        theirs = (c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
        path = Path(self.folder or next(theirs, None) or trainer.default_root_dir) / LAST
        trainer.save_checkpoint(path, weights_only=False)
        return path

    def _restore_handlers(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()


def _is_over(timer: Timer) -> bool:
    remaining = timer.time_remaining()
    return remaining is not None and remaining <= 0


__all__ = ["StopOnSignal"]
