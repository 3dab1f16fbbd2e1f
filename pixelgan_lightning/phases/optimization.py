"""Optimizer settings of one training phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch.optim import Adam

from pixelgan_lightning.errors import ConfigurationError

Schedule = Literal["constant", "cosine", "linear"]


LARGEST = 1e30
"""Of the numbers that optimizers take: what they make of larger ones does not fit 32 bits."""


@dataclass
class PhaseOptimizer:
    """Adam and the course of its learning rate, in up to three pieces: it rises, stays at ``lr``, and falls.

    ::

                     _________________            lr
                   /                   \\
                 /                       \\______  final_lr_factor * lr
        initial_lr_factor * lr
               |     |                 |  |
        warmup_steps   stable_steps     decay_steps

    Args:
        lr: learning rate between rise and fall.
        betas: Adam's averaging coefficients.
        weight_decay: L2 penalty.
        schedule: how the rate falls: ``constant``: not at all; ``cosine`` or ``linear``, down to
            ``final_lr_factor * lr``, which the step after the last would have.
        final_lr_factor: where the fall ends.
        warmup_steps: batches over which the rate rises linearly.
        initial_lr_factor: where the rise begins: the step before the first would have ``initial_lr_factor * lr``.
        stable_steps: batches between rise and fall.
        decay_steps: batches of the fall; None: all that are left.
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
    initial_lr_factor: float = 0.0
    stable_steps: int = 0
    decay_steps: int | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigurationError(f"betas={list(self.betas)} is not usable: allowed are two values in [0, 1)")
        self.betas = (self.betas[0], self.betas[1])  # YAML and checkpoints give a list
        if self.schedule not in get_args(Schedule):
            allowed = ", ".join(map(repr, get_args(Schedule)))
            raise ConfigurationError(f"schedule={self.schedule!r} is not usable: allowed are {allowed}")
        if not 0 < self.lr <= LARGEST:
            raise ConfigurationError(f"lr={self.lr} is not usable: allowed are values > 0 and <= {LARGEST:g}")
        for name in ("weight_decay", "final_lr_factor", "warmup_steps", "initial_lr_factor", "stable_steps"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} is not usable: allowed are values >= 0 and <= {LARGEST:g}"
                )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigurationError(f"clip_norm={self.clip_norm} is not usable: allowed are values > 0 and null")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ConfigurationError(f"decay_steps={self.decay_steps} is not usable: allowed are numbers >= 1 and null")

    @property
    def needs_an_end(self) -> bool:
        """Whether the rate depends on how long the training is."""
        return self.schedule != "constant" and self.decay_steps is None

    def build(self, groups: list[dict[str, Any]]) -> Adam:
        """The optimizer over parameter ``groups``."""
        return Adam(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)

    def factor(self, step: int, total_steps: float) -> float:
        """What the learning rate is multiplied with at ``step`` of ``total_steps`` batches.

        A function of the step alone, so there is no state of a schedule to restore.
        """
        if step < self.warmup_steps:
            return self.initial_lr_factor + (1 - self.initial_lr_factor) * (step + 1) / (self.warmup_steps + 1)
        start = self.warmup_steps + self.stable_steps
        length = total_steps - start if self.decay_steps is None else self.decay_steps
        if step < start or self.schedule == "constant" or (self.decay_steps is None and not 0 < total_steps < math.inf):
            return 1.0
        done = min(1.0, (step - start) / max(1.0, length))
        shape = 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done
        return self.final_lr_factor + (1 - self.final_lr_factor) * shape
