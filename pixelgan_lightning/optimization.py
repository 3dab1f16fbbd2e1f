"""Optimizer settings of one training phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Adam, Optimizer

from pixelgan_lightning.errors import ConfigurationError

Schedule = Literal["constant", "cosine", "linear"]


LARGEST = 1e30
"""Of the numbers that optimizers take: what they make of larger ones does not fit 32 bits."""


@dataclass
class PhaseOptimizer:
    """Adam and its schedule for one phase.

    Args:
        lr: learning rate after the warm-up.
        betas: Adam's averaging coefficients.
        weight_decay: L2 penalty.
        schedule: ``constant``; or ``cosine`` or ``linear`` down to ``final_lr_factor * lr``, which the
            step after the last would have.
        final_lr_factor: where a schedule ends.
        warmup_steps: batches over which the learning rate rises linearly from 0.
        clip_norm: largest gradient norm of the phase's parameters; None for no clipping.

    Raises:
        ConfigurationError: a value out of range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    final_lr_factor: float = 0.0
    warmup_steps: int = 0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise ConfigurationError(f"betas={list(self.betas)} is not usable: allowed are two values in [0, 1)")
        self.betas = (self.betas[0], self.betas[1])  # YAML and checkpoints give a list
        if not 0 < self.lr <= LARGEST:
            raise ConfigurationError(f"lr={self.lr} is not usable: allowed are values > 0 and <= {LARGEST:g}")
        if self.schedule not in ("constant", "cosine", "linear"):
            raise ConfigurationError(
                f"schedule={self.schedule!r} is not usable: allowed are 'constant', 'cosine', 'linear'"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigurationError(f"betas={list(self.betas)} is not usable: allowed are two values in [0, 1)")
        for name in ("weight_decay", "final_lr_factor", "warmup_steps"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} is not usable: allowed are values >= 0 and <= {LARGEST:g}"
                )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigurationError(f"clip_norm={self.clip_norm} is not usable: allowed are values > 0 and null")

    def build(self, groups: list[dict[str, Any]]) -> Adam:
        """The optimizer over parameter ``groups``; a group may have an ``lr`` of its own."""
        optimizer = Adam(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def set_learning_rates(self, optimizer: Optimizer, step: int, total_steps: float) -> None:
        """Set the rates for ``step``: a function of the step alone, so there is no schedule state to restore."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(step, total_steps)

    def factor(self, step: int, total_steps: float) -> float:
        """What the learning rate is multiplied with at ``step`` of ``total_steps`` batches."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant" or not 0 < total_steps < math.inf:  # the length is unknown
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1.0, total_steps - self.warmup_steps))
        shape = 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done
        return self.final_lr_factor + (1 - self.final_lr_factor) * shape
