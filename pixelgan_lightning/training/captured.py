"""A training step as one CUDA graph: the host asks for it once, instead of for each of its thousand operations.

A graph repeats operations on the same places in memory. What differs from step to step is therefore written to fixed
places before: the batch, and in one copy the keys of the draws and the learning rates. Nothing else may differ, so
there is a graph for each kind of step: which phases run, what they see, how large the batch is, whether it is logged.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from pixelgan_lightning.numerics.cuda_graphs import Recorder
from pixelgan_lightning.phases import TrainStep
from pixelgan_lightning.phases.base import Batch
from pixelgan_lightning.random import RowDraws, signed
from pixelgan_lightning.training.steps import Sees, Sequential

MOST = 16
"""Kinds of steps that get a graph: each holds memory. Others run one operation at a time."""

HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Of callbacks and modules: code in the middle of a step, which a graph does not call."""


class Captured:
    """Runs the steps of a :class:`~pixelgan_lightning.training.steps.Sequential` or ``Fused`` as CUDA graphs.

    The first two steps of a kind run one operation at a time, the second one on the fixed places; then the kind is
    recorded. Where that is not possible, steps run as they do without, and one line says why.

    A callback may change weights in place. Weights that are put elsewhere, another ``requires_grad`` and another mode
    of a module make the kind begin anew.

    Args:
        step: what runs the phases.
        recorder: makes the graphs.
    """

    def __init__(self, step: Sequential, recorder: Recorder) -> None:
        self.step, self.recorder, self.gradients = step, recorder, step.gradients
        self.refusal: str | None = None
        self._kinds: dict[Any, _Kind] = {}
        self._parameters, self._buffers = list(step.model.parameters()), list(step.model.buffers())
        self._modules = list(step.model.modules())

    def run(self, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], total_steps: float) -> None:
        """One step; see :meth:`~pixelgan_lightning.training.steps.Sequential.run`."""
        shares = self.step.set_rates(sees, step.number, optimizers, total_steps)
        if (
            self.gradients.module.device.type == "cuda"
        ):  # from the first step on, the numbers that a graph computes with
            for group in _groups(optimizers):
                group["lr"] = _in_float32(group["lr"])
            shares = {name: _in_float32(share) for name, share in shares.items()}
        layout = _layout(step.batch, self.gradients.module.device)
        if layout is None:
            self._refuse("a batch has something else than tensors on the device")
        name = (tuple(sees.items()), step.logged, layout)
        if self.refusal is not None or (name not in self._kinds and len(self._kinds) == MOST):
            self.step.move(sees, step, optimizers, shares)
            return
        kind = self._kinds.get(name)
        if kind is None or (kind.replay is not None and kind.state != self._state(optimizers)):
            self._kinds[name] = self._first(sees, step, optimizers, shares)
            return
        kind.fill(step, [group["lr"] for group in _groups(optimizers)], shares.values())
        if not kind.rehearsed:
            kind.rehearsed = True
            self._refuse(self.recorder.rehearse(lambda: self._compute(kind, sees, step, optimizers, False)))
        else:
            if kind.replay is None and not self._record(kind, sees, step, optimizers):
                self.step.move(sees, step, optimizers, shares)
                return
            assert kind.replay is not None
            kind.replay()
        self._refuse(kind.refusal)
        self.gradients.remember(kind.watched, kind.values.clone())
        step.numbers |= {number: value.clone() for number, value in kind.numbers.items()}

    def _first(
        self, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], shares: Mapping[str, float]
    ) -> _Kind:
        """The first step of a kind, as without graphs: it shows what is drawn."""
        draws = _Draws(step.draws)
        watched = _Watched(step.batch, step.number, draws, step.logged, step.numbers)
        self.step.move(sees, watched, optimizers, shares)
        self._refuse(draws.refusal or watched.refusal)
        return _Kind(step, list(draws.purposes), len(_groups(optimizers)), list(shares))

    def _compute(
        self, kind: _Kind, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], capturable: bool
    ) -> None:
        """The step as a function of what lies at the fixed places; of ``step`` nothing is used, or it is refused."""
        draws = _Draws(step.draws, kind.keys)
        fixed = _Watched(kind.batch, step.number, draws, step.logged)
        with _rates_on_device(optimizers, kind.rates, capturable), self.gradients.recorded() as values:
            self.step.move(sees, fixed, optimizers, kind.shares)
        kind.refusal = draws.refusal or fixed.refusal
        kind.watched, kind.values = tuple(values), torch.stack([value.float() for value in values.values()])
        kind.numbers = fixed.numbers

    def _record(self, kind: _Kind, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer]) -> bool:
        """Whether the step could be recorded. Nothing is computed here."""
        try:
            kind.replay = self.recorder.record(lambda: self._compute(kind, sees, step, optimizers, True))
        except RuntimeError as error:  # of CUDA
            self._refuse(" ".join(str(error).split())[:200])
        self._refuse(kind.refusal)
        if self.refusal is not None:
            for p in self._parameters:
                p.grad = None
        kind.state = self._state(optimizers)
        return self.refusal is None

    def _state(self, optimizers: Sequence[Optimizer]) -> tuple[list[int], list[bool]]:
        """Where everything lies that a graph writes, and what decides which operations it has."""
        kept = [value for o in optimizers for values in o.state.values() for value in values.values()]
        places = [t.data_ptr() for t in (*self._parameters, *self._buffers, *kept) if isinstance(t, Tensor)]
        return places, [*(p.requires_grad for p in self._parameters), *(m.training for m in self._modules)]

    def _refuse(self, reason: str | None) -> None:
        if reason is not None and self.refusal is None:
            self.refusal = reason
            self._kinds.clear()
            say_why_not(reason)


class _Kind:
    """The fixed places of a kind of step: what goes in, and what comes out.

    Args:
        step: an example.
        purposes: of its draws.
        groups: of parameters, which the optimizers have.
        shares: names of phases, see :meth:`~pixelgan_lightning.training.steps.Sequential.set_rates`.
    """

    def __init__(self, step: TrainStep, purposes: Sequence[str], groups: int, shares: Sequence[str]) -> None:
        self.batch: Batch = {
            part: {name: torch.empty_like(rows) for name, rows in tensors.items()}
            for part, tensors in step.batch.items()
        }
        self._purposes, keys = purposes, 2 * len(purposes)
        self._words = torch.zeros(keys + groups + len(shares), dtype=torch.int64, device=step.draws.device)
        self.keys = {purpose: (self._words[2 * i], self._words[2 * i + 1]) for i, purpose in enumerate(purposes)}
        # CUDA's Adam takes learning rates in float32; that of a CPU any.
        self._format, dtype = ("<f4x", torch.float32) if self._words.is_cuda else ("<d", torch.float64)
        numbers = [word.view(1).view(dtype)[0] for word in self._words[keys:]]
        self.rates, self.shares = numbers[:groups], dict(zip(shares, numbers[groups:], strict=True))
        self.rehearsed = False
        self.replay: Callable[[], None] | None = None
        self.state: object = None
        self.refusal: str | None = None
        self.watched: tuple[str, ...] = ()
        self.values = self._words[:0]
        self.numbers: dict[str, Tensor] = {}

    def fill(self, step: TrainStep, rates: Sequence[float], shares: Iterable[float]) -> None:
        """Write what a step has; the host does not wait."""
        words = [signed(int(word)) for purpose in self._purposes for word in step.draws.stream(purpose)]
        words += [struct.unpack("<q", struct.pack(self._format, number))[0] for number in (*rates, *shares)]
        on_host = torch.tensor(words, dtype=torch.int64, pin_memory=self._words.is_cuda)
        self._words.copy_(on_host, non_blocking=True)
        for part, tensors in self.batch.items():
            for name, fixed in tensors.items():
                fixed.copy_(step.batch[part][name], non_blocking=True)


class _Draws(RowDraws):
    """The draws of a step, which tell for what they were made, with keys from the device where there are some."""

    def __init__(self, of_step: RowDraws, keys: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__(*of_step.key, rank=of_step.rank, world_size=of_step.world_size, device=of_step.device)
        self.keys, self.purposes = keys, dict[str, None]()
        self.refusal: str | None = None

    def __call__(self, purpose: str, rows: int, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        self.refusal = f"the draws for {purpose!r} come from a generator of the CPU"
        return super().__call__(purpose, rows, draw)

    def stream(self, purpose: str) -> tuple[int | Tensor, int | Tensor]:
        self.purposes[purpose] = None
        if self.keys is not None and purpose in self.keys:
            return self.keys[purpose]
        if self.keys is not None:
            self.refusal = f"the draws for {purpose!r} are not in every step"
        return super().stream(purpose)


class _Watched(TrainStep):
    """A step that tells whether somebody asked for its number, which a graph does not know."""

    refusal: str | None = None

    @property
    def number(self) -> int:
        self.refusal = "a phase computes with the number of the step"
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._number = number


@contextmanager
def _rates_on_device(optimizers: Sequence[Optimizer], rates: Sequence[Tensor], capturable: bool) -> Iterator[None]:
    """Learning rates at fixed places instead of numbers, which checkpoints and callbacks find again afterwards."""
    groups = _groups(optimizers)
    before = [{name: group[name] for name in ("lr", "capturable")} for group in groups]
    for group, lr in zip(groups, rates, strict=True):
        group |= {"lr": lr, "capturable": capturable}
    try:
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group |= values


def _groups(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _in_float32(number: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)


def _layout(batch: Batch, device: torch.device) -> tuple[Any, ...] | None:
    """What a batch has; None where that is something else than two levels of names and tensors on ``device``."""
    layout: list[Any] = []
    for part, tensors in batch.items():
        if not isinstance(tensors, Mapping):
            return None
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.device != device:
                return None
            layout.append((part, name, tensor.shape, tensor.dtype))
    return tuple(layout)


def why_not(module: pl.LightningModule) -> str | None:
    """Why the training of a module cannot run as CUDA graphs, as far as that shows before; or None."""
    trainer = module.trainer
    if module.device.type != "cuda":
        return f"the device is {module.device.type}"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"strategy={type(trainer.strategy).__name__} is not that of a single device"
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for owner, base in [*((callback, pl.Callback) for callback in callbacks), (module, pl.LightningModule)]:
        for hook in HOOKS:
            if getattr(type(owner), hook) is not getattr(base, hook):
                return f"{type(owner).__name__} has {hook}"
    return None


def say_why_not(reason: str) -> None:
    """One line of the log."""
    rank_zero_info(f"cuda_graphs: steps run one operation at a time, {reason}")


__all__ = ["Captured", "say_why_not", "why_not"]
