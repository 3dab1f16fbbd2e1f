"""Times of this machine: medians of repeats, the convolution speed, names."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def median_seconds(work: Callable[[], object], repeats: int = 5, warmups: int = 1) -> float:
    """Median time of a call."""
    return statistics.median(seconds_of_each([work], repeats, warmups)[0])


def seconds_of_each(works: list[Callable[[], object]], repeats: int, warmups: int = 1) -> list[list[float]]:
    """Times of several calls, taken in turns, so that a busy moment of the machine hits all of them alike."""
    for work in works:
        for _ in range(warmups):
            work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, record in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            record.append(time.perf_counter() - start)
    return times


def conv_works(channels: int, backward: bool, batch: int = 64, side: int = 28) -> list[Callable[[], object]]:
    """A 3x3 convolution of ``channels`` to ``channels``, in both memory layouts; see :func:`conv_flops`."""
    works: list[Callable[[], object]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
        weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=layout)
        gradient = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
        x.requires_grad_(backward)
        weight.requires_grad_(backward)

        def work(x: Any = x, weight: Any = weight, gradient: Any = gradient) -> None:
            y = F.conv2d(x, weight, padding=1)
            if backward:
                torch.autograd.grad(y, (x, weight), gradient)

        works.append(work)
    return works


def conv_flops(channels: int, backward: bool, batch: int = 64, side: int = 28) -> float:
    """Two per multiplication and addition; a backward pass takes two more passes, by image and by weight."""
    return 2 * 9 * channels**2 * batch * side**2 * (3 if backward else 1)


def conv_speed(channels: int, backward: bool, repeats: int = 15) -> float:
    """FLOP/s of the machine's own 3x3 convolution, in the memory layout that is faster."""
    times = seconds_of_each(conv_works(channels, backward), repeats, warmups=3)
    return conv_flops(channels, backward) / min(statistics.median(t) for t in times)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {
        "cpu": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
