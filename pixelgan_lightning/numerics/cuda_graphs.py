"""CUDA graphs: the host asks for many operations at once, which then take as long as the device needs.

A graph repeats its operations on the same places in memory: whatever is to differ lies at one of them, on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch


class Recorder(Protocol):
    """Turns a function without arguments and results into something that repeats its work on the device."""

    def rehearse(self, function: Callable[[], None]) -> str | None:
        """Call ``function``; why its work cannot be recorded, or None."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """What does the work of ``function``, which this does not."""


class CUDAGraphs:
    """Records CUDA graphs, which share their memory: they are replayed one after the other."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def rehearse(self, function: Callable[[], None]) -> str | None:
        """On the stream that is recorded, so that what libraries keep for a stream is there."""
        before = torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(torch.cuda.current_stream())
        with warnings.catch_warnings(record=True) as caught, torch.cuda.stream(self.stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(self.stream)
        # Of its first use PyTorch warns too, in other words.
        waits = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
        return "the host waits for the device in it (.item(), a copy from or to the host)" if waits else None

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, of loaders and loggers, may use the device meanwhile. What fails leaves its stream as current.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
        ):
            function()
        replay: Callable[[], None] = graph.replay
        return replay


__all__ = ["CUDAGraphs", "Recorder"]
