"""Normalisation by batch statistics that means the same on one process and on many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pixelgan_lightning.errors import ConfigurationError


class BatchNorm(nn.Module):
    """Batch normalisation over the *global* batch (Ioffe and Szegedy, 2015), for ``[B, C, ...]``.

    It differs from ``nn.BatchNorm`` in two ways that manual optimization needs. The statistics are summed over
    processes, differentiably, so that N processes compute what one process computes (``nn.SyncBatchNorm`` exists for
    GPUs only). And the running statistics, used in evaluation mode, move only inside :func:`running_statistics`: one
    phase owns them, the other phases leave every buffer alone.

    Args:
        channels: C.
        affine: learn a scale and a shift per channel.
        momentum: weight of the newest batch in the running statistics.
        eps: added to the variance.

    Raises:
        ConfigurationError: in training, a single number per channel, which has no variance.
    """

    def __init__(self, channels: int, affine: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.tracking = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            if x.numel() == x.shape[1]:
                raise ConfigurationError(
                    "a batch of one image is not usable with batch normalisation: allowed are batch_size >= 2, "
                    "images >= 2 of a phase, and encoders and posteriors without it (norm='group', "
                    "standardize=False)"
                )
            mean, var = (self.running_mean, self.running_var) if self.tracking else (None, None)
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        return self._forward_distributed(x)

    def _forward_distributed(self, x: Tensor) -> Tensor:
        exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # they cannot count the pixels
        rows = exact.transpose(0, 1).flatten(1)  # [C, N]
        own, number = rows.mean(1), rows.shape[1]
        # One sum over processes: of what a process has around its own mean, and of how far that is from a number that
        # all processes have, which keeps the difference of squares below from losing digits.
        origin = self.running_mean.to(exact)
        off = own - origin
        squares = (rows - own[:, None]).square().sum(1) + number * off.square()
        sums = sum_over_processes(torch.cat([number * off, squares, rows.new_full((1,), number)]))
        count = sums[-1]
        shift, square = (sums[:-1] / count).chunk(2)
        mean, var = origin + shift, (square - shift.square()).clamp_min(0)
        if self.tracking:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = (exact - mean.view(shape)) * (var.view(shape) + self.eps).rsqrt()
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with a :class:`BatchNorm` in place of every ``nn.BatchNorm1d``, ``2d`` and ``3d``, weights included.

    For networks from elsewhere as encoders, as ``nn.SyncBatchNorm.convert_sync_batchnorm`` does for other trainers.
    In evaluation, and in training on one process, it computes what it did before.

    Raises:
        ConfigurationError: a layer without running statistics, or with a cumulative average of them.
    """
    for name, layer in module.named_children():
        module.add_module(name, convert_batch_norm(layer))
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return module
    if module.momentum is None or module.running_mean is None or module.running_var is None:
        raise ConfigurationError(
            f"{module} is not usable: allowed are track_running_stats=True and a momentum that is a number"
        )
    converted = BatchNorm(module.num_features, module.affine, module.momentum, module.eps)
    kept = {key: value for key, value in module.state_dict().items() if key != "num_batches_tracked"}
    converted.load_state_dict(kept)
    return converted.to(module.running_mean.device).train(module.training)


class _SumOverProcesses(torch.autograd.Function):
    """Each process's loss depends on the sum, so the gradient of a summand is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, differentiably; ``x`` itself where there is only one."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    total: Tensor = _SumOverProcesses.apply(x)
    return total


@contextmanager
def running_statistics(*modules: nn.Module) -> Iterator[None]:
    """Let the running statistics of all :class:`BatchNorm` in ``modules`` follow the batches seen in this context."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, BatchNorm)]
    before = [layer.tracking for layer in layers]
    for layer in layers:
        layer.tracking = True
    try:
        yield
    finally:  # backwards, so that a layer named twice ends as it began
        for layer, tracking in reversed(list(zip(layers, before, strict=True))):
            layer.tracking = tracking
