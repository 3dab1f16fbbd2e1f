"""When checkpoints are written, and which of them stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import require_at_least
from pixelgan_lightning.errors import ConfigurationError

LAST = "last.ckpt"


class RunCheckpoint(Checkpoint):  # Lightning calls these callbacks last: a moving average is up to date
    """Writes ``last.ckpt``, from which a run goes on, and keeps the best or the newest beside it.

    A checkpoint is written after each validation (without validations after each epoch), or after every
    ``every_n_train_steps`` batches, and always at the end of a fit: also where ``max_steps`` ends it within an epoch,
    or where no validation falls on the last epoch. One that is due at an epoch's last batch waits for the validation
    after it. However the process ends, a fit that continues ``last.ckpt`` has weights, optimizers and averages bit by
    bit as if it had not been interrupted (``docs/reliability.md``).

    Beside ``last.ckpt`` files ``epoch=E-step=S.ckpt`` stay: with ``monitor`` those with its best values, as validations
    found them; without, the newest.

    Args:
        dirpath: folder of the files; None for ``checkpoints`` in the trainer's ``default_root_dir``.
        monitor: name of a number that validations log, for example ``val/reconstruction``; None for the newest.
        mode: whether small ("min") or large ("max") values of ``monitor`` are good.
        save_top_k: how many files stay beside ``last.ckpt``; 0 for none, -1 for all.
        every_n_train_steps: batches between two checkpoints; None for one after each validation.

    Raises:
        ConfigurationError: values out of these ranges; ``monitor`` is the name of nothing that a validation logs.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"mode={mode!r} is not usable: allowed are 'min' and 'max'")
        require_at_least("save_top_k", save_top_k, -1)
        if every_n_train_steps is not None:
            require_at_least("every_n_train_steps", every_n_train_steps, 1)
        self.dirpath, self.monitor, self.mode = dirpath, monitor, mode
        self.save_top_k, self.every_n_train_steps = save_top_k, every_n_train_steps
        # Names that loggers and Trainer.test(ckpt_path="best") look up.
        self.best_k_models: dict[str, Tensor] = {}
        self.best_model_path, self.last_model_path = "", ""
        self.best_model_score: Tensor | None = None
        self.current_score: Tensor | None = None
        self._saved_at: int | None = None

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}(monitor={self.monitor!r})"

    def state_dict(self) -> dict[str, Any]:
        """Which files there are and what their scores were."""
        return {"kept": {Path(path).name: score for path, score in self.best_k_models.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None
        kept = {str(Path(self.dirpath) / name): score for name, score in state_dict["kept"].items()}
        self.best_k_models = {path: score for path, score in kept.items() if Path(path).is_file()}
        self._name_best()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints")
        self.dirpath = str(trainer.strategy.broadcast(str(Path(folder).absolute())))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = trainer.global_step  # the checkpoint that is continued is there already

    # ---------------------------------------------------------------------------------------------------- when to save

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # what is due waits for the validation, or for the end of the epoch
        ends = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        # Behind the last of max_steps Lightning counts the epoch as a whole one, and its rest would be left out.
        if ends or self._interval_is_over(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.monitor is not None:
            self._save_if_good(trainer)
        if self.every_n_train_steps is None or self._interval_is_over(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        without_validation = self.every_n_train_steps is None and sum(trainer.num_val_batches) == 0
        if without_validation or self._interval_is_over(trainer) or training_is_over(trainer):
            self._save(trainer)

    def _interval_is_over(self, trainer: pl.Trainer) -> bool:
        return self.every_n_train_steps is not None and trainer.global_step % self.every_n_train_steps == 0

    # -------------------------------------------------------------------------------------------------------- the files

    def save_last(self, trainer: pl.Trainer) -> Path:
        """Write ``last.ckpt`` now; all processes call it."""
        assert self.dirpath is not None
        path = Path(self.dirpath) / LAST
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_at = trainer.global_step
        return path

    def _save(self, trainer: pl.Trainer) -> None:
        if self._saved_at == trainer.global_step:
            return
        if self.monitor is None:
            self._keep(trainer, torch.tensor(float(trainer.global_step)))
        self.save_last(trainer)
        self._tell_loggers(trainer)

    def _save_if_good(self, trainer: pl.Trainer) -> None:
        assert self.monitor is not None
        # Numbers of a training step are of one batch, and of each process its own.
        of_validation = {name: v for name, v in trainer.callback_metrics.items() if not name.startswith("train/")}
        score = of_validation.get(self.monitor)
        if score is None:
            raise ConfigurationError(
                f"checkpoint.monitor={self.monitor!r} is not usable: allowed are {', '.join(sorted(of_validation))}"
            )
        self.current_score = score.detach().cpu()
        worst = sorted(self.best_k_models.values(), key=self._badness)[-1:]
        room = self.save_top_k == -1 or len(self.best_k_models) < self.save_top_k
        if room or (self.save_top_k and self._badness(self.current_score) < self._badness(worst[0])):
            self._keep(trainer, self.current_score)
            self._tell_loggers(trainer)

    def _badness(self, score: Tensor) -> float:
        """Smaller is better; what is not a number is worse than all numbers."""
        value = float(score) if self.monitor is not None and self.mode == "min" else -float(score)
        return math.inf if math.isnan(value) else value

    def _keep(self, trainer: pl.Trainer, score: Tensor) -> None:
        if self.save_top_k == 0:
            return
        assert self.dirpath is not None
        path = str(Path(self.dirpath) / f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt")
        before = dict(self.best_k_models)
        self.best_k_models[path] = score
        by_score = sorted(self.best_k_models, key=lambda p: self._badness(self.best_k_models[p]))
        gone = [] if self.save_top_k == -1 else by_score[self.save_top_k :]
        for old in gone:
            del self.best_k_models[old]
        self._name_best()
        trainer.save_checkpoint(path, weights_only=False)
        for old in gone:
            if old in before:
                trainer.strategy.remove_checkpoint(old)

    def _name_best(self) -> None:
        self.best_model_path = min(
            self.best_k_models, key=lambda path: self._badness(self.best_k_models[path]), default=""
        )
        self.best_model_score = self.best_k_models.get(self.best_model_path)

    def _tell_loggers(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else []:
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]


def can_stop(trainer: pl.Trainer) -> bool:
    """Whether ``min_epochs`` and ``min_steps`` allow an early end."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    enough_epochs = not trainer.min_epochs or epochs.processed >= trainer.min_epochs
    return enough_epochs and (not trainer.min_steps or trainer.global_step >= trainer.min_steps)


def training_is_over(trainer: pl.Trainer) -> bool:
    """At the end of an epoch: whether it was the last."""
    epochs: Any = trainer.fit_loop.epoch_progress.current  # its processed is, unlike completed, right by then
    steps_reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs_reached = trainer.max_epochs not in (None, -1) and epochs.processed >= trainer.max_epochs
    return steps_reached or epochs_reached or (trainer.should_stop and can_stop(trainer))


__all__ = ["LAST", "RunCheckpoint", "can_stop", "training_is_over"]
