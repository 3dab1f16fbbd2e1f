"""What the sections of ``make gpu`` share: the device, precisions, times that wait for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def device() -> torch.device:
    """The GPU, or the CPU where the kit is only tried."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Wait until the device has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def set_precision(precision: str) -> contextlib.AbstractContextManager[Any]:
    """TF32 on or off for products and convolutions; returns the context in which bf16 is used."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if precision == "bf16":
        return torch.autocast(device().type, torch.bfloat16)
    return contextlib.nullcontext()


def seconds_per_call(work: Callable[[], object], seconds: float, warmups: int = 3) -> float:
    """Mean time of a call, over as many as take about ``seconds``."""
    for _ in range(warmups):
        work()
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    calls = max(1, int(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise()
    return (time.perf_counter() - start) / calls
