"""Checks that the callbacks share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors import Prior

SPLITS = ("val", "test")


def require_at_least(name: str, value: int, minimum: int) -> None:
    """Accept integers from ``minimum`` on.

    Raises:
        ConfigurationError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(f"{name}={value!r} is not usable: allowed are integers >= {minimum}")


def require_splits(splits: Sequence[str]) -> tuple[str, ...]:
    """Accept lists of "val" and "test".

    Raises:
        ConfigurationError: anything else.
    """
    if isinstance(splits, str) or not splits or not set(splits) <= set(SPLITS):
        raise ConfigurationError(f"splits={splits!r} is not usable: allowed are lists of {' and '.join(SPLITS)}")
    return tuple(splits)


def exact_device(pl_module: pl.LightningModule) -> torch.device:
    """The module's device, or the CPU where that has no float64 (Apple's), in which metrics are summed."""
    device = pl_module.device
    return torch.device("cpu") if device.type == "mps" else device


def has_density(prior: Prior) -> bool:
    """Whether a prior knows its ``log_prob``, which is optional."""
    device = next((buffer.device for buffer in prior.buffers()), torch.device("cpu"))
    try:
        prior.log_prob(torch.zeros(1, prior.code_dim, device=device))
    except NotImplementedError:
        return False
    return True


def share_of_images(max_images: int | None, trainer: pl.Trainer) -> float:
    """How many of ``max_images`` (None: all) this process takes, infinity for all of its own."""
    if max_images is None:
        return math.inf
    share, rest = divmod(max_images, trainer.world_size)
    return share + (trainer.global_rank < rest)


def is_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether this validation belongs to every n-th epoch; a validation outside ``fit`` always does."""
    return trainer.state.fn != TrainerFn.FITTING or (trainer.current_epoch + 1) % every_n_epochs == 0
