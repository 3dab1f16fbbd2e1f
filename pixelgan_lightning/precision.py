"""Which precisions can be used; the likelihood is always computed in float32 or better."""

from __future__ import annotations

from pixelgan_lightning.errors import ConfigurationError


def require_usable_precision(precision: object) -> None:
    """Refuse half precision (float16): its gradients need a scale, bfloat16 does not.

    Args:
        precision: an argument of a trainer, or what the trainer has made of it.

    Raises:
        ConfigurationError: float16.
    """
    if str(precision) in ("16", "16-mixed", "16-true"):
        raise ConfigurationError(f"precision={precision} is not usable: allowed are bf16-mixed, 32 and 64")


__all__ = ["require_usable_precision"]
