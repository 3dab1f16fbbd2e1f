"""Likelihoods of one pixel."""

from pixelgan_lightning.likelihoods.base import Likelihood
from pixelgan_lightning.likelihoods.bernoulli import Bernoulli
from pixelgan_lightning.likelihoods.categorical import CategoricalLevels
from pixelgan_lightning.likelihoods.logistic_mixture import DiscretizedLogisticMixture

__all__ = ["Bernoulli", "CategoricalLevels", "DiscretizedLogisticMixture", "Likelihood"]
