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
        logits = full_precision(params).unflatten(1, (x.shape[1], self.levels)).movedim(2, -1)  # [B, C, H, W, L]
        target = (x * (self.levels - 1)).round().long()
        # One row for each value: over images CUDA has no deterministic way.
        nats = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        return -nats.view(len(x), -1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        cdf = (full_precision(params) / temperature).softmax(1).cumsum(1)  # [B, L]
        # The last level takes what rounding leaves over, so it is never compared.
        return (uniforms >= cdf[:, :-1]).sum(1, keepdim=True).to(params) / (self.levels - 1)
