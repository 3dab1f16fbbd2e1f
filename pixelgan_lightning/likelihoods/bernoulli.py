"""Binary images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.likelihoods.base import Likelihood, full_precision


class Bernoulli(Likelihood):
    """One logit per value, for images of zeros and ones."""

    levels = 2

    def params_per_pixel(self, channels: int) -> int:
        return channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        params = full_precision(params)
        return -F.binary_cross_entropy_with_logits(params, x.to(params), reduction="none").flatten(1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        return (uniforms < (full_precision(params) / temperature).sigmoid()).to(params)
