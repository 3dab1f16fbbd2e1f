"""What a checkpoint of Lightning lacks for a continued run to equal the uninterrupted one, and what must not differ.

A checkpoint written at the end of a training batch comes before two things of that batch: its row in the logs and the
validation that may be due after it. Lightning continues with the next batch, so a process killed in between would lose
both. Here they travel in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.version import __version__

EPOCH_LOOP = "epoch_loop."
VALIDATION_LOOP = "epoch_loop.val_loop."

DERIVED = ("latent_dim", "img_dim")
"""Names in ``hparams`` that callbacks of other packages look for; they follow from the arguments and are not stored."""


class Resumable(pl.LightningModule):
    """A model whose checkpoints hold what a continued run needs, and that refuses those of another run."""

    def __init__(self) -> None:
        super().__init__()
        self._trained_steps = 0
        self._resumed: dict[str, Any] = {}  # what the checkpoint that a fit continues says about its run

    @property
    def global_step(self) -> int:
        """Batches trained on; outside ``fit`` those behind the weights, which Lightning does not know."""
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            return int(super().global_step)
        return self._trained_steps or int(super().global_step)

    def require_finite(self) -> None:
        """Refuse to go on with a loss or gradient that is infinite or NaN."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for derived in DERIVED:
            checkpoint.get("hyper_parameters", {}).pop(derived, None)
        about: dict[str, Any] = {"version": __version__, "split_hash": None}
        self.require_finite()
        trainer = self._trainer
        if trainer is not None:
            about["split_hash"] = getattr(getattr(trainer, "datamodule", None), "split_hash", None)
            about["images_per_step"] = images_per_step(trainer)
            add_unfinished_business(trainer, checkpoint, about)
        checkpoint["pixelgan_lightning"] = about

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        described = checkpoint.get("hyper_parameters", {})
        mine = {name: value for name, value in self.hparams.items() if name not in DERIVED}
        require_same_model(self.state_dict(), checkpoint["state_dict"], mine, described)
        self._trained_steps = int(checkpoint.get("global_step", 0))
        self._resumed = dict(checkpoint.get("pixelgan_lightning", {}))
        if self._trainer is not None:
            require_same_stream(self._trainer, self._resumed)

    def on_train_start(self) -> None:
        begin_next_epoch(self.trainer)
        log_unfinished_business(self.trainer, self._resumed)
        remember_last_checkpoint(self.trainer)
        self._resumed = {}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._trained_steps = self.global_step
        forget_last_checkpoint(self.trainer)

    def on_validation_start(self) -> None:
        self.require_finite()
        forget_cut_off_validation(self.trainer)


def images_per_step(trainer: pl.Trainer) -> dict[str, int]:
    """Global batch sizes by the name of the data module's argument; empty for data modules that do not tell."""
    data = getattr(trainer, "datamodule", None)
    names = ["batch_size", *(["labelled_batch_size"] if getattr(data, "num_labelled", None) else [])]
    sizes = {name: getattr(data, name, None) for name in names}
    return {name: size * trainer.world_size for name, size in sizes.items() if isinstance(size, int)}


def require_same_stream(trainer: pl.Trainer, stored: Mapping[str, Any]) -> None:
    """Refuse to continue a fit with other batches than it would have had.

    Args:
        trainer: with the data that a fit is to be continued on.
        stored: what the checkpoint says about its run.

    Raises:
        ConfigurationError: another number of images per step, or another split of the data.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    data = getattr(trainer, "datamodule", None)
    before: Mapping[str, int] = stored.get("images_per_step") or {}
    for name, now in images_per_step(trainer).items():
        if name in before and before[name] != now:
            raise ConfigurationError(
                f"{name}={getattr(data, name)} on {trainer.world_size} process(es), {now} images per step, does not "
                f"continue a run with {before[name]} images per step: allowed are the same number of images"
            )
    split, split_before = getattr(data, "split_hash", None), stored.get("split_hash")
    if split is not None and split_before is not None and split != split_before:
        raise ConfigurationError(
            f"data with split_hash={split[:12]} does not continue a run with split_hash={split_before[:12]}: allowed "
            "are the same training, validation and labelled images"
        )


def require_same_model(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], hparams: Mapping[str, Any], stored: Mapping[str, Any]
) -> None:
    """Say in one line how the model of a checkpoint differs, where its weights do not fit.

    Args:
        mine: the state dict of this model.
        theirs: the state dict of the checkpoint.
        hparams: the description of this model.
        stored: the description of the checkpoint's model.

    Raises:
        ConfigurationError: keys or shapes differ.
    """
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (mine, theirs)]
    if shapes[0] == shapes[1]:
        return
    here, there = (_leaves(description) for description in (hparams, stored))
    # Only what both mention: a default that one of them leaves out is no difference.
    differences = [
        f"{key} is {there[key]!r} there and {here[key]!r} here"
        for key in sorted(here.keys() & there.keys())
        if here[key] != there[key]
    ]
    if not differences:
        keys = sorted(k for k in shapes[0].keys() | shapes[1].keys() if shapes[0].get(k) != shapes[1].get(k))
        differences = [f"{k} has shape {shapes[1].get(k)} there and {shapes[0].get(k)} here" for k in keys]
    more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise ConfigurationError(f"the checkpoint is of another model: {', '.join(differences[:3])}{more}")


def _leaves(description: Any, key: str = "") -> dict[str, Any]:
    if isinstance(description, Mapping) and description:
        return {
            k: v for name, value in description.items() for k, v in _leaves(value, f"{key}.{name}".strip(".")).items()
        }
    return {key: list(description) if isinstance(description, tuple) else description}


def add_unfinished_business(trainer: pl.Trainer, checkpoint: dict[str, Any], extra: dict[str, Any]) -> None:
    """Make a checkpoint written at the end of a training batch one that is continued behind this batch's logging.

    Args:
        trainer: in the hook that writes the checkpoint.
        checkpoint: its ``loops`` are changed where a validation is due.
        extra: gets ``pending_log``, the step and the row of the logs, where one is due.
    """
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress
    if not trainer.training or batches.total.processed != batches.total.completed + 1:
        return  # not between a training batch and its end
    if trainer.loggers and trainer._logger_connector.should_update_logs:
        row = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
        extra["pending_log"] = {"step": loop._batches_that_stepped, "row": {**row, "epoch": trainer.current_epoch}}
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher is None or not loop._should_check_val_fx(fetcher):
        return
    # As if the kill came within the validation: Lightning then starts with a validation.
    loops = checkpoint["loops"]["fit_loop"]
    for part in ("total", "current"):
        loops[f"{EPOCH_LOOP}batch_progress"][part]["completed"] += 1
        validated = loops[f"{VALIDATION_LOOP}batch_progress"][part]
        done = validated["completed"] if part == "total" else 0
        validated.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    loops[f"{VALIDATION_LOOP}batch_progress"]["is_last_batch"] = False


def log_unfinished_business(trainer: pl.Trainer, stored: Mapping[str, Any]) -> None:
    """Log the row that the killed process may not have logged any more."""
    pending = stored.get("pending_log")
    if pending is not None:
        for logger in trainer.loggers:
            logger.log_metrics(pending["row"], pending["step"])
            logger.save()


def remember_last_checkpoint(trainer: pl.Trainer) -> None:
    """Let a continued fit that has nothing left to train leave its checkpoint alone.

    ``ModelCheckpoint`` would write it again at the end, when a moving average has taken the place of the weights.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and not callback._last_checkpoint_saved:
            callback._last_checkpoint_saved = callback.last_model_path


def forget_last_checkpoint(trainer: pl.Trainer) -> None:
    """Once a continued fit has trained, its checkpoint is no longer that of the end."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._last_global_step_saved == 0:
            callback._last_checkpoint_saved = ""


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Let a fit with ``max_steps`` go on behind an epoch that its checkpoint has finished.

    Lightning would take it up again within that epoch, where no batch is left, and count one more that trained nothing.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # the loop's own setter insists on True
        loop.update_restart_stage()
        loop.epoch_progress.increment_completed()


def forget_cut_off_validation(trainer: pl.Trainer) -> None:
    """Let Lightning's counters of validation batches agree again, when a cut-off validation begins anew."""
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.processed = total.completed


__all__ = [
    "DERIVED",
    "Resumable",
    "add_unfinished_business",
    "begin_next_epoch",
    "forget_cut_off_validation",
    "forget_last_checkpoint",
    "images_per_step",
    "log_unfinished_business",
    "remember_last_checkpoint",
    "require_same_model",
    "require_same_stream",
]
