"""The categorical prior: its code becomes the class, the PixelCNN draws the style."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior


class Categorical(Prior):
    """``K`` equally likely categories as one-hot vectors (PixelGAN autoencoders, section 2.2).

    Args:
        num_categories: K. For clustering choose more than there are classes, for semi-supervised learning as many.

    Raises:
        ConfigurationError: fewer than 2 categories.
    """

    num_draws = 1

    def __init__(self, num_categories: int = 10) -> None:
        super().__init__()
        if num_categories < 2:
            raise ConfigurationError(f"num_categories={num_categories} is not usable: a categorical prior needs >= 2")
        self.num_categories: int = num_categories
        self.code_dim = num_categories
        self.category_slice = slice(0, num_categories)
        self.num_components: int = num_categories

    def from_draws(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        categories = (draws[:, 0].double() * self.num_categories).long()  # in float32 the product may round up to K
        one_hot = draws.new_zeros(len(draws), self.num_categories)
        return one_hot.scatter_(1, categories[:, None], 1.0), categories  # F.one_hot looks at the values

    def log_prob(self, z: Tensor) -> Tensor:
        """``-log K`` for one-hot rows (a probability, not a density), minus infinity for any other vector."""
        one_hot = ((z == 1).sum(1) == 1) & ((z != 0).sum(1) == 1)
        return torch.where(one_hot, z.new_tensor(-math.log(self.num_categories)), -torch.inf)

    def enumerate(self) -> tuple[Tensor, Tensor]:
        k = self.num_categories
        return torch.eye(k), torch.full((k,), -math.log(k), dtype=torch.float64)
