"""Which precisions can be used; the likelihood is always computed in float32 or better.

On a GPU the command line lets products and convolutions of training round their factors to TF32, 10 bits, which is
several times as fast. ``log p(x)`` is computed without: emulated, TF32 moved it by up to 0.02 nats. Advice: on recent
GPUs ``--trainer.precision bf16-mixed`` halves the memory of features; numbers to be published come from ``32-true``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pixelgan_lightning.errors import ConfigurationError

USABLE = ("32", "32-true", "64", "64-true", "bf16", "bf16-mixed", "None")
"""By the names that Lightning has for them; None is float32."""


def require_usable_precision(precision: object) -> None:
    """Refuse float16, whose gradients need a scale, and weights in bfloat16: small steps and averages are lost in them.

    Args:
        precision: an argument of a trainer, or what the trainer has made of it.

    Raises:
        ConfigurationError: another one than ``bf16-mixed``, float32 and float64.
    """
    if str(precision) not in USABLE:
        raise ConfigurationError(f"precision={precision} is not usable: allowed are bf16-mixed, 32 and 64")


def fast_training() -> None:
    """Let a CUDA GPU use TF32. The settings are PyTorch's own, of the process.

    ``cudnn.benchmark`` stays off: on an H100 trying the algorithms of all convolutions took 13 seconds before the first
    step, and a step was as fast without. ``--trainer.benchmark true`` tries it.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    else:  # or each step of an optimizer looks for a driver in vain, 0.4 ms
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products and convolutions in float32 as it is, without TF32; afterwards as before."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


__all__ = ["exact_float32", "fast_training", "require_usable_precision"]
