"""CUDA tensors without a GPU, which know their device and have no values, and what passes between devices."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Transfers(TorchDispatchMode):
    """Lists the operations that read or write tensors of two devices: on a GPU the host waits in them.

    Numbers without dimensions do not count: operations take them along as arguments. An operation that asks for the
    value of a fake tensor fails by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor) and t.dim()]
        devices = sorted({t.device.type for t in tensors})
        if len(devices) > 1:
            self.seen.append(f"{func} between {' and '.join(devices)}")
        return result
