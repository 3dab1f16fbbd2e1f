"""What a GPU would do, seen without one: CUDA tensors without values, what passes between devices, CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Transfers(TorchDispatchMode):
    """Lists the operations that read or write tensors of two devices: on a GPU the host waits in them.

    Numbers without dimensions do not count, unless they are copied: other operations take them along as arguments. An
    operation that asks for the value of a fake tensor fails by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        tensors = [t for t in _tensors((args, kwargs, result)) if t.dim() or copies]
        devices = sorted({t.device.type for t in tensors})
        if len(devices) > 1:
            self.seen.append(f"{func} between {' and '.join(devices)}")
        return result


class Recording(TorchDispatchMode):
    """A CUDA graph on any device: operations are recorded and repeated on the memory that they had.

    As there, numbers and views of Python are those of the recording, and recording computes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.before:
                self.before[storage.data_ptr()] = storage, storage.clone()
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for storage, value in self.before.values():
            storage.copy_(value)

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            for old, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class Replays:
    """A recorder of such graphs, see :class:`pixelgan_lightning.numerics.cuda_graphs.Recorder`.

    Args:
        refusal: of a rehearsal.
        error: of a recording.
    """

    def __init__(self, refusal: str | None = None, error: Exception | None = None) -> None:
        self.refusal, self.error, self.recorded = refusal, error, 0

    def rehearse(self, function: Callable[[], None]) -> str | None:
        function()
        return self.refusal

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        if self.error is not None:
            raise self.error
        with Recording() as recording:
            function()
        self.recorded += 1
        return recording.replay


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
