"""Random draws that are a function of a key, never of how often a generator was used before.

Every draw of the training loop is keyed by (seed, step, purpose) and by the row in the global batch. Ranks therefore
differ from each other, N processes see the same numbers as one process, and a resumed run repeats what the killed run
would have drawn.

The numbers come from a counter and not from a state: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014), whose n-th number is ``mix(start + n * gamma)``. It takes a dozen operations on
integers, which every device has and computes alike. So draws are made where they are used, a process makes those of its
own rows only, and CPU and GPU give the same numbers, normal ones up to rounding.
"""

from __future__ import annotations

import hashlib
import math
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


def split_mix(
    start: int | Tensor, gamma: int | Tensor, first: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """Numbers ``first`` to ``first + count`` (from 0) of SplitMix64, int64 ``[count]``: 64 random bits each.

    Args:
        start: its seed, of 64 bits; or an int64 tensor ``[]`` of these bits, on the device.
        gamma: its odd step, likewise.
        first: number of the first one.
        count: how many.
        device: where to make them.
    """
    z = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    z.mul_(gamma if isinstance(gamma, Tensor) else signed(gamma))
    z.add_(start if isinstance(start, Tensor) else signed(start))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z.bitwise_xor_(_shifted(z, shift)).mul_(signed(factor))
    return z.bitwise_xor_(_shifted(z, 31))


def normal_from_uniform(uniforms: Tensor) -> Tensor:
    """Standard normal draws from uniform ones in [0, 1) of 24 bits, by the inverse of the distribution function.

    The uniform value stands for the middle of its interval of 2**-24, so the result is symmetric and at most 5.4.
    """
    return torch.erfinv(uniforms * 2 - (1 - 2**-24)) * math.sqrt(2)


class RowDraws:
    """Draws for one step, one for each row of this process in the global batch.

    Args:
        key: what identifies the step, for example ``(seed, global_step)``.
        rank: index of this process.
        world_size: number of processes; the global batch is the concatenation of the processes' batches by rank.
        device: where draws are made and returned.
    """

    def __init__(self, *key: Key, rank: int = 0, world_size: int = 1, device: torch.device | str | None = None) -> None:
        self.key, self.rank, self.world_size, self.device = key, rank, world_size, device

    def __call__(self, purpose: str, rows: int, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """``draw(rows * world_size, generator)`` keyed by step and ``purpose``, cut to this process.

        For draws that need a generator: they are made on the CPU, by every process for all.
        """
        everything = draw(rows * self.world_size, keyed_generator(*self.key, purpose))
        return everything[self.rank * rows : (self.rank + 1) * rows].to(self.device)

    def stream(self, purpose: str) -> tuple[int | Tensor, int | Tensor]:
        """Start and step of the numbers for ``purpose``; see :func:`stream`."""
        return stream(*self.key, purpose)

    def uniform(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), multiples of 2**-24, ``[rows, *shape]``, float32."""
        start, gamma = self.stream(purpose)
        numbers = math.prod(shape)
        words = -(-numbers // 2)  # each gives two numbers, and each row has its own
        bits = split_mix(start, gamma, self.rank * rows * words, rows * words, self.device).view(rows, words)
        halves = bits.view(torch.int32)[:, :numbers]
        # The upper 24 bits, from -2**23 to 2**23 - 1: exact in float32.
        return (halves >> 8).float().mul_(2**-24).add_(0.5).view(rows, *shape)

    def normal(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """Standard normal draws ``[rows, *shape]``, float32."""
        return normal_from_uniform(self.uniform(purpose, rows, *shape))


def permutation(size: int, *key: Key, device: torch.device | str | None = None) -> Tensor:
    """0 to ``size - 1`` in an order that depends on ``key`` alone, int64 ``[size]``: that of random numbers."""
    return split_mix(*stream(*key), 0, size, device).argsort(stable=True)


def stream(*key: Key) -> tuple[int, int]:
    """Start and step of SplitMix64 for a key. Two streams that met would part again, as their steps differ."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    start, gamma = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    gamma |= 1
    # A step with few changes between neighbouring bits gives weak numbers (section 5 of the paper).
    return start, gamma if (gamma ^ (gamma >> 1)).bit_count() >= 24 else gamma ^ 0xAAAAAAAAAAAAAAAA


def signed(number: int) -> int:
    """The int64 with the bits of a number below 2**64."""
    return number - (number >> 63 << 64)


def _shifted(z: Tensor, places: int) -> Tensor:
    """To the right, zeros from the left: int64's own shift copies the sign."""
    return (z >> places).bitwise_and_(2 ** (64 - places) - 1)
