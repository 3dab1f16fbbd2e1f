"""Which precisions can be used where; the likelihood is always computed in float32 or better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pixelgan_lightning.errors import ConfigurationError


def require_usable_precision(trainer: Mapping[str, Any]) -> None:
    """Refuse half precision (float16) on a CPU, where Lightning would take bfloat16 without a word that counts.

    Args:
        trainer: the arguments of a trainer, ``precision`` and ``accelerator`` among them.

    Raises:
        ConfigurationError: ``16-mixed`` without a GPU.
    """
    precision = str(trainer.get("precision"))
    if precision not in ("16", "16-mixed"):
        return
    accelerator = trainer.get("accelerator", "auto")
    on_cpu = accelerator == "cpu" or type(accelerator).__name__ == "CPUAccelerator"
    if on_cpu or (accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()):
        raise ConfigurationError(f"precision={precision} on a CPU is not usable: allowed are bf16-mixed, 32 and 64")


__all__ = ["require_usable_precision"]
