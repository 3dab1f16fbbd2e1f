"""Random draws that are a function of a key, never of how often a generator was used before.

Every draw of the training loop is keyed by (seed, step, purpose) and made for the whole global batch; a process takes
the rows that belong to it. Ranks therefore differ from each other, N processes see the same numbers as one process,
and a resumed run repeats what the killed run would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Key = int | str


def keyed_seed(*key: Key) -> int:
    """A number below 2**63 that depends on nothing but ``key`` (also across machines and Python versions)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def keyed_generator(*key: Key) -> torch.Generator:
    """A CPU generator that starts from :func:`keyed_seed`."""
    return torch.Generator().manual_seed(keyed_seed(*key))


class RowDraws:
    """Draws for one step: each call draws for the global batch and returns this process's rows.

    Args:
        key: what identifies the step, for example ``(seed, global_step)``.
        rank: index of this process.
        world_size: number of processes; the global batch is the concatenation of the processes' batches by rank.
    """

    def __init__(self, *key: Key, rank: int = 0, world_size: int = 1) -> None:
        self.key, self.rank, self.world_size = key, rank, world_size

    def __call__(self, purpose: str, rows: int, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """``draw(rows * world_size, generator)`` keyed by step and ``purpose``, cut to this process."""
        everything = draw(rows * self.world_size, keyed_generator(*self.key, purpose))
        return everything[self.rank * rows : (self.rank + 1) * rows]

    def normal(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """Standard normal draws ``[rows, *shape]``, float32."""
        return self(purpose, rows, lambda n, g: torch.randn(n, *shape, generator=g, dtype=torch.float32))

    def uniform(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), ``[rows, *shape]``, float32."""
        return self(purpose, rows, lambda n, g: torch.rand(n, *shape, generator=g, dtype=torch.float32))
