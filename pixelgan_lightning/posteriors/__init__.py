"""Posteriors: how a code is drawn from the encoder's features."""

from pixelgan_lightning.posteriors.base import Posterior
from pixelgan_lightning.posteriors.categorical import CategoricalPosterior
from pixelgan_lightning.posteriors.deterministic import DeterministicPosterior
from pixelgan_lightning.posteriors.gaussian import GaussianPosterior

__all__ = ["CategoricalPosterior", "DeterministicPosterior", "GaussianPosterior", "Posterior"]
