"""Augmentations one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pixelgan_lightning.augmentations.base import Augmentation
from pixelgan_lightning.errors import ConfigurationError


class Chain(Augmentation):
    """A view of a view.

    Args:
        steps: augmentations, the first one first; each gets draws of its own.

    Raises:
        ConfigurationError: no steps.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        super().__init__()
        if not steps:
            raise ConfigurationError("steps=[] is not usable: allowed are lists of one or more augmentations")
        self.steps = nn.ModuleList(steps)
        self.num_draws = sum(step.num_draws for step in steps)

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        for step, own in self._with_draws(draws):
            x = step(x, own)
        return x

    def milder(self, draws: Tensor) -> Tensor:
        return torch.cat([step.milder(own) for step, own in self._with_draws(draws)], 1)

    def _with_draws(self, draws: Tensor) -> Iterator[tuple[Augmentation, Tensor]]:
        steps = cast("list[Augmentation]", list(self.steps))
        return zip(steps, draws.split([step.num_draws for step in steps], 1), strict=True)
