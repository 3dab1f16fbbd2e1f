"""What a checkpoint of Lightning lacks for a continued run to equal the uninterrupted one, and what must not differ.

After any kill the weights, the optimizers and the averages of a continued run are those of the run in one piece. A
row of the logs between the checkpoint and the kill may be missing, and a validation that was due may come one interval
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.training.averaging import TRAINED, require_average
from pixelgan_lightning.version import __version__

DERIVED = ("latent_dim", "img_dim")
"""Names in ``hparams`` that callbacks of other packages look for; they follow from the arguments and are not stored."""


class Continuation:
    """What a model writes into checkpoints beside its weights, and refuses in those of another run.

    Args:
        model: whose checkpoints they are.
    """

    def __init__(self, model: pl.LightningModule) -> None:
        self.model = model
        self.steps = 0
        """Batches behind the weights; Lightning knows them only within ``fit``."""

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Say in a checkpoint where it comes from."""
        for derived in DERIVED:
            checkpoint.get("hyper_parameters", {}).pop(derived, None)
        about: dict[str, Any] = {"version": __version__, "split_hash": None}
        trainer = attached_trainer(self.model)
        if trainer is not None:
            about["split_hash"] = getattr(getattr(trainer, "datamodule", None), "split_hash", None)
            about["images_per_step"] = images_per_step(trainer)
        about["averaged"] = TRAINED in checkpoint
        checkpoint["pixelgan_lightning"] = about

    def read(self, checkpoint: dict[str, Any]) -> None:
        """Take what a checkpoint says about its run, before its weights are loaded.

        Raises:
            ConfigurationError: it is of another model; within ``fit`` also: of another stream of images, or its
                average would be lost.
        """
        described = checkpoint.get("hyper_parameters", {})
        mine = {name: value for name, value in self.model.hparams.items() if name not in DERIVED}
        require_same_model(self.model.state_dict(), checkpoint["state_dict"], mine, described)
        self.steps = int(checkpoint.get("global_step", 0))
        trainer = attached_trainer(self.model)
        if trainer is not None:
            require_phases(trainer, described)
            require_average(trainer, checkpoint)
            require_same_stream(trainer, checkpoint.get("pixelgan_lightning", {}))


def attached_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """The trainer of a module that has one."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's way to say that there is none
        return None


def require_phases(trainer: pl.Trainer, stored: Mapping[str, Any]) -> None:
    """Refuse to continue a fit from before phases were parts: its optimizers were others.

    Raises:
        ConfigurationError: it is.
    """
    if trainer.state.fn == TrainerFn.FITTING and "phases" not in stored:
        raise ConfigurationError(
            "ckpt_path is not usable with fit: the run is from before phases were parts; allowed are test, sample and "
            "export, and for a new run from its weights --init_from"
        )


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


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Let a fit go on behind an epoch whose last batch its checkpoint has seen.

    Lightning would go on with the next epoch without counting it, or, with ``max_steps``, take up the old one again, in
    which no batch is left, and count one more that trained nothing.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress
    if not loop.restarting or epochs.current.processed < epochs.current.ready or loop.done:
        return
    if loop.restarted_mid_epoch:  # the checkpoint was written behind the batch
        epochs.increment_ready()
        epochs.increment_started()
        return
    if loop.restarted_on_epoch_end:  # behind the epoch
        epochs.increment_completed()
    loop.epoch_loop.restarting = False
    loop.update_restart_stage()


__all__ = [
    "DERIVED",
    "Continuation",
    "attached_trainer",
    "begin_next_epoch",
    "images_per_step",
    "require_phases",
    "require_same_model",
    "require_same_stream",
]
