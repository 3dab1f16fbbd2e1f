"""Priors over codes: what the discriminator calls real."""

from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.priors.categorical import Categorical
from pixelgan_lightning.priors.gaussian import Gaussian

__all__ = ["Categorical", "Gaussian", "Prior"]
