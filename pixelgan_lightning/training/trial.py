"""A trial of a model's parts: whether they take and return what their contracts say."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.component import Component
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.numerics.inference import inference

PACKAGE = "pixelgan_lightning."


@inference
def require_contracts(model: Autoencoder) -> None:
    """Let two black images through components that are not of this package, and look at every shape.

    Raises:
        ConfigurationError: a component fails, or returns something of another shape; it is named.
    """
    if all(type(component).__module__.startswith(PACKAGE) for component in model.parts().values()):
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
            seen = torch.cat([z, z.new_zeros(n, model.label_dim)], 1)
            _look("discriminator", model.discriminator, "logits", (n,), lambda: model.discriminator(seen))
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
