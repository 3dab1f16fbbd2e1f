"""Priors over codes: what the discriminator calls real."""

from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.priors.categorical import Categorical
from pixelgan_lightning.priors.gaussian import Gaussian
from pixelgan_lightning.priors.gaussian_mixture import GaussianMixture
from pixelgan_lightning.priors.no_code import NoCode
from pixelgan_lightning.priors.product import ProductPrior
from pixelgan_lightning.priors.swiss_roll import SwissRoll
from pixelgan_lightning.priors.uniform import Uniform

__all__ = ["Categorical", "Gaussian", "GaussianMixture", "NoCode", "Prior", "ProductPrior", "SwissRoll", "Uniform"]
