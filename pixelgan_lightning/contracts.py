"""Whether components and batches keep the contracts of this package: looked at before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.inference import inference
from pixelgan_lightning.normalization import BatchNorm

if TYPE_CHECKING:
    from pixelgan_lightning.model import PixelGAN

PACKAGE = "pixelgan_lightning."


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
        if name == "decoder" and isinstance(layer, _NormBase | BatchNorm):
            raise ConfigurationError(
                f"decoder={type(component).__name__} with {type(layer).__name__} is not usable: it lets a pixel see "
                "later pixels or other images; allowed are layers without statistics over space or batch"
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigurationError(
                f"{name}={type(component).__name__} with {type(layer).__name__} is not usable: every phase would move "
                "its running statistics; allowed is pixelgan_lightning.normalization.BatchNorm (convert_batch_norm)"
            )


@inference
def require_contracts(model: PixelGAN) -> None:
    """Let two black images through components that are not of this package, and look at every shape.

    Raises:
        ConfigurationError: a component fails, or returns something of another shape; it is named.
    """
    if all(type(component).__module__.startswith(PACKAGE) for component in model.children()):
        return
    n, d = 2, model.prior.code_dim
    x = torch.zeros(n, *model.image_shape)
    with torch.random.fork_rng(devices=[]):  # a component may draw from the global stream
        generator = torch.Generator().manual_seed(0)
        z = x.new_zeros(n, 0)
        if d:
            encoder, posterior = model.encoder, model.posterior
            _look("prior", model.prior, "sample(2, generator)", (n, d), lambda: model.prior.sample(n, generator))
            features = _look("encoder", encoder, "features", (n, encoder.num_features), lambda: encoder(x))
            z = _look("posterior", posterior, "code", (n, d), lambda: posterior(features))
            if posterior.noise_dim:
                noise = torch.zeros(n, posterior.noise_dim)
                _look("posterior", posterior, "code", (n, d), lambda: posterior(features, noise))
            labels = z.new_zeros(n, (model.num_classes or 0) + 1 if model.label_aware else 0)
            _look(
                "discriminator",
                model.discriminator,
                "logits",
                (n,),
                lambda: model.discriminator(torch.cat([z, labels], 1)),
            )
        shape = (n, model.likelihood.params_per_pixel(x.shape[1]), *x.shape[2:])
        params = _look("decoder", model.decoder, "parameters", shape, lambda: model.decoder(x, z))
        what = "log_prob, one number for each image,"
        _look("likelihood", model.likelihood, what, (n,), lambda: model.likelihood.log_prob(params, x))


def _look(name: str, component: Component, what: str, shape: tuple[int, ...], call: Callable[[], Tensor]) -> Tensor:
    """What ``call`` returns, if it is a tensor of this shape."""
    called = f"{name}={type(component).__name__}"
    try:
        tensor = call()
    except ConfigurationError:
        raise
    except Exception as error:
        failed = f"its {what} failed: {type(error).__name__}: {error}"
        raise ConfigurationError(f"{called} is not usable: {failed}") from error
    found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if found != shape:
        raise ConfigurationError(f"{called} returns {what} of shape {found} for two images: allowed is {shape}")
    return tensor


def require_training_batch(batch: Any, needs: Mapping[str, Any]) -> None:
    """Refuse batches of another form than the package's data modules hand out.

    Args:
        batch: the first of a training.
        needs: arguments of the model, by name, that need labels where they are true.

    Raises:
        ConfigurationError: no unlabelled images, or no labelled ones where these are needed.
    """
    unlabelled = batch.get("unlabelled") if isinstance(batch, Mapping) else None
    if not isinstance(unlabelled, Mapping) or "image" not in unlabelled:
        raise ConfigurationError(
            f"training batches of type {type(batch).__name__} are not usable: allowed are "
            '{"unlabelled": {"image": [B, C, H, W]}}, with labels also {"labelled": {"image": ..., "label": ...}}'
        )
    for name, value in needs.items():
        if value and "labelled" not in batch:
            raise ConfigurationError(
                f"{name}={value} is not usable with batches without labels: allowed are batches with "
                '{"labelled": {"image": ..., "label": ...}}'
            )


def require_evaluation_batch(batch: Any) -> None:
    """Refuse batches of another form than the package's data modules hand out.

    Raises:
        ConfigurationError: no images by name.
    """
    if not isinstance(batch, Mapping) or "image" not in batch:
        raise ConfigurationError(
            f"evaluation batches of type {type(batch).__name__} are not usable: allowed are "
            '{"image": [B, C, H, W], "label": [B], "index": [B]}'
        )


__all__ = [
    "require_contracts",
    "require_evaluation_batch",
    "require_normalization",
    "require_number",
    "require_training_batch",
]
