"""Posteriors: how a code is drawn from the encoder's features."""

from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.posteriors.categorical import CategoricalPosterior
from pixelgan_lightning.posteriors.deterministic import DeterministicPosterior
from pixelgan_lightning.posteriors.gaussian import GaussianPosterior
from pixelgan_lightning.posteriors.implicit import ImplicitPosterior
from pixelgan_lightning.posteriors.none import NoPosterior
from pixelgan_lightning.posteriors.product import ProductPosterior, default_posterior

__all__ = [
    "CategoricalPosterior",
    "DeterministicPosterior",
    "GaussianPosterior",
    "ImplicitPosterior",
    "NoPosterior",
    "Posterior",
    "ProductPosterior",
    "default_posterior",
]
