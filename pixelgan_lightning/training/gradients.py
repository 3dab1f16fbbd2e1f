"""Gradients of several losses in one training step: each moves its own parameters, and the step counts once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from pixelgan_lightning.errors import NonFiniteError


class _Unseen(NamedTuple):
    """Values ``[n]`` that have to be finite, and that nobody has looked at yet."""

    what: Sequence[str]
    step: int
    batch: int
    epoch: int
    values: Tensor


@contextmanager
def frozen(parameters: Sequence[Parameter]) -> Iterator[None]:
    """What is computed in this context has no gradients for ``parameters``."""
    switched = [p for p in parameters if p.requires_grad]
    for p in switched:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in switched:
            p.requires_grad = True


class Gradients:
    """What Lightning's manual optimization leaves to a module.

    Args:
        module: whose parameters are moved; its trainer is used.
    """

    def __init__(self, module: pl.LightningModule) -> None:
        self.module = module
        self._unseen: list[_Unseen] = []
        self._recorded: dict[str, Tensor] | None = None

    def follow(
        self, losses: Mapping[str, Tensor], optimizer: Optimizer, name: str, clip_norm: float | None = None
    ) -> None:
        """Move parameters by the gradient of the sum of ``losses``.

        Args:
            losses: by the name of their phase.
            optimizer: one of the module's, without the wrapper by which Lightning counts steps.
            name: the phase whose optimizer it is.
            clip_norm: the largest norm that the gradient may have.
        """
        terms = list(losses.values())
        # DDP would send the gradients of all parameters for each phase, and would have to look for those without any.
        with self._not_sent():
            self.module.manual_backward(sum(terms[1:], terms[0]))
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        mean_over_processes([p.grad for p in moved if p.grad is not None])
        norm = torch.nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None])
        watched = {f"loss of the {phase} phase": loss.detach() for phase, loss in losses.items()}
        watched[f"norm of the gradient of the {name} phase"] = norm
        if self._recorded is not None:
            self._recorded |= watched
        else:
            self.remember(list(watched), torch.stack([value.float() for value in watched.values()]))
            if self.looking_is_free:
                self.require_finite()
        if clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(moved, clip_norm, norm)
        self.module.trainer.strategy.optimizer_step(optimizer, _nothing)
        for p in moved:
            p.grad = None

    def _not_sent(self) -> AbstractContextManager[None]:
        """In this context no backward pass sends gradients to other processes."""
        strategy = self.module.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()

    @property
    def looking_is_free(self) -> bool:
        """Whether the host need not wait for a device to see a value."""
        return self.module.device.type == "cpu"

    def count_step(self) -> None:
        """Let ``global_step`` advance by one.

        Lightning counts the steps of optimizers that are wrapped. No parameter has a gradient by now, so none moves.
        """
        optimizers = self.module.optimizers()
        (optimizers[0] if isinstance(optimizers, list) else optimizers).step()

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Tensor]]:
        """What has to be finite is put here, by name, for :meth:`remember`."""
        self._recorded = {}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def remember(self, what: Sequence[str], values: Tensor) -> None:
        """Remember values ``[n]`` that have to be finite: to look at once would make the host wait for the device."""
        module = self.module
        batch = module.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        self._unseen.append(_Unseen(what, module.global_step, batch, module.current_epoch, values))

    def require_finite(self) -> None:
        """Look at all losses and gradient norms since the last time, in one transfer from the device.

        Called before an optimizer moves where looking costs nothing, on a CPU; elsewhere with every row of the logs,
        which reads from the device anyway, and at the end of an epoch. And before each validation and each checkpoint:
        no number and no file ever holds what came of such a value.

        Raises:
            NonFiniteError: for the first that is infinite or NaN; again at each further call.
        """
        if not self._unseen:
            return
        values = torch.cat([unseen.values for unseen in self._unseen]).tolist()
        names = [(what, unseen) for unseen in self._unseen for what in unseen.what]
        for (what, unseen), value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"the {what} is {value} at step {unseen.step} (batch {unseen.batch} of epoch "
                    f"{unseen.epoch}); checkpoints written before are good"
                )
        self._unseen.clear()

    def forget(self) -> None:
        """What nobody has looked at yet belongs to a training that is over."""
        self._unseen.clear()


@torch.no_grad()
def mean_over_processes(gradients: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over all processes, in place, by one message for all of them."""
    if not gradients or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _nothing() -> None:
    """The gradients are there already."""
