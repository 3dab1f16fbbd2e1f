"""Whether components and batches keep the contracts of this package: looked at before any training."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from torch import nn

from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.numerics.normalization import BatchNorm

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def require_number(name: str, component: Component, attribute: str, least: int) -> None:
    """Refuse a component without a number that others are built for.

    Raises:
        ConfigurationError: ``attribute`` is missing, or no integer from ``least``.
    """
    value = getattr(component, attribute, None)
    if not isinstance(value, Integral) or value < least:
        raise ConfigurationError(
            f"{name}={type(component).__name__} with {attribute}={value} is not usable: allowed are numbers >= {least}"
        )


def require_normalization(name: str, component: Component) -> None:
    """Refuse layers that make images depend on each other in a way that phases and processes do not share.

    Raises:
        ConfigurationError: batch normalisation by PyTorch; in a decoder any over space or batch.
    """
    for layer in component.modules():
        if name == "decoder" and isinstance(layer, (*BATCH_NORMS, *INSTANCE_NORMS, BatchNorm)):
            raise ConfigurationError(
                f"decoder={type(component).__name__} with {type(layer).__name__} is not usable: it lets a pixel see "
                "later pixels or other images; allowed are layers without statistics over space or batch"
            )
        if isinstance(layer, BATCH_NORMS):
            raise ConfigurationError(
                f"{name}={type(component).__name__} with {type(layer).__name__} is not usable: every phase would move "
                "its running statistics; allowed is pixelgan_lightning.numerics.normalization.BatchNorm "
                "(convert_batch_norm)"
            )


def require_training_batch(batch: Any) -> None:
    """Refuse batches of another form than the package's data modules hand out.

    Args:
        batch: the first of a training.

    Raises:
        ConfigurationError: no unlabelled images.
    """
    unlabelled = batch.get("unlabelled") if isinstance(batch, Mapping) else None
    if not isinstance(unlabelled, Mapping) or "image" not in unlabelled:
        raise ConfigurationError(
            f"training batches of type {type(batch).__name__} are not usable: allowed are "
            '{"unlabelled": {"image": [B, C, H, W]}}, with labels also {"labelled": {"image": ..., "label": ...}}'
        )


def require_evaluation_batch(batch: Any, *more: str) -> None:
    """Refuse batches of another form than the package's data modules hand out.

    Args:
        batch: the first of an evaluation.
        more: what is needed beside the images.

    Raises:
        ConfigurationError: no images by name, or not what else is needed.
    """
    missing = [name for name in ("image", *more) if not isinstance(batch, Mapping) or name not in batch]
    if missing:
        raise ConfigurationError(
            f"evaluation batches of type {type(batch).__name__} without {missing[0]} are not usable: allowed are "
            '{"image": [B, C, H, W], "label": [B], "index": [B]}'
        )


__all__ = [
    "require_evaluation_batch",
    "require_normalization",
    "require_number",
    "require_training_batch",
]
