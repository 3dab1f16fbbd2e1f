"""Grey levels as unordered categories."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods.base import Likelihood, full_precision


class CategoricalLevels(Likelihood):
    """A softmax over L grey levels per value (van den Oord et al., 2016).

    Args:
        levels: L.

    Raises:
        ConfigurationError: fewer than 2 levels.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ConfigurationError(f"levels={levels} is not usable: allowed are numbers >= 2")
        self.levels = levels

    def params_per_pixel(self, channels: int) -> int:
        return channels * self.levels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logits = full_precision(params).unflatten(1, (x.shape[1], self.levels)).transpose(1, 2)  # [B, L, C, H, W]
        target = (x * (self.levels - 1)).round().long()
        return -F.cross_entropy(logits, target, reduction="none").flatten(1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        cdf = (full_precision(params) / temperature).softmax(1).cumsum(1)  # [B, L]
        # The last level takes what rounding leaves over, so it is never compared.
        return (uniforms >= cdf[:, :-1]).sum(1, keepdim=True).to(params) / (self.levels - 1)
