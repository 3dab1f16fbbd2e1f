"""The discretised mixture of logistics of PixelCNN++."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods.base import Likelihood, full_precision

MIN_LOG_SCALE = -7.0


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of logistic distributions per pixel, discretised to L levels (Salimans et al., 2017, section 2.1).

    A pixel's channels share the mixture component; in it, the mean of channel c is shifted linearly by the values of
    channels ``0..c-1`` (section 2.2, here for any number of channels). A level's probability is the exact difference of
    the logistic CDF at its bin's edges, computed in log space, and the outer bins reach to infinity: the likelihood is
    normalised for every L.

    Parameters per pixel, in this order, M mixture components each: logits; for every channel means, log scales; for
    every pair of channels ``b < c`` the coefficient of b in c.

    Args:
        num_mixtures: M.
        levels: L.

    Raises:
        ConfigurationError: fewer than 1 component or 2 levels.
    """

    channels_jointly = True

    def __init__(self, num_mixtures: int = 5, levels: int = 256) -> None:
        super().__init__()
        if num_mixtures < 1:
            raise ConfigurationError(f"num_mixtures={num_mixtures} is not usable: allowed are numbers >= 1")
        if levels < 2:
            raise ConfigurationError(f"levels={levels} is not usable: allowed are numbers >= 2")
        self.num_mixtures, self.levels = num_mixtures, levels

    def params_per_pixel(self, channels: int) -> int:
        return self.num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)

    def uniforms_per_pixel(self, channels: int) -> int:
        return 1 + channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        channels = x.shape[1]
        logits, means, log_scales, coefficients = self._split(full_precision(params), channels)
        x = 2 * x.to(means) - 1  # the grey levels in [-1, 1], as the means are
        total = logits.log_softmax(1)
        for c in range(channels):
            total = total + self._log_level(x[:, c : c + 1], self._mean(means, coefficients, x, c), log_scales[:, c])
        return total.logsumexp(1).flatten(1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        channels = uniforms.shape[1] - 1
        logits, means, log_scales, coefficients = self._split(full_precision(params), channels)
        cdf = (logits / temperature).softmax(1).cumsum(1)
        chosen = (uniforms[:, :1] >= cdf[:, :-1]).sum(1, keepdim=True)  # [B, 1]
        x = means.new_zeros(len(params), channels)
        half = torch.finfo(x.dtype).tiny
        for c in range(channels):
            mean = self._mean(means, coefficients, x, c).gather(1, chosen)[:, 0]
            scale = log_scales[:, c].gather(1, chosen)[:, 0].exp() * temperature
            u = uniforms[:, 1 + c].clamp(min=half)
            level = ((mean + scale * (u.log() - (-u).log1p()) + 1) * (0.5 * (self.levels - 1))).round()
            x[:, c] = 2 * level.clamp(0, self.levels - 1) / (self.levels - 1) - 1
        return ((x + 1) * (0.5 * (self.levels - 1))).round().to(params) / (self.levels - 1)

    def _split(self, params: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``[B, M, ...]``; means, log scales ``[B, C, M, ...]``; coefficients ``[B, C (C - 1) / 2, M, ...]``."""
        pairs = channels * (channels - 1) // 2
        rows = params.unflatten(1, (1 + 2 * channels + pairs, self.num_mixtures))
        logits, means, log_scales, coefficients = rows.split([1, channels, channels, pairs], 1)
        return logits[:, 0], means, log_scales.clamp(min=MIN_LOG_SCALE), coefficients.tanh()

    def _mean(self, means: Tensor, coefficients: Tensor, x: Tensor, channel: int) -> Tensor:
        """Means ``[B, M, ...]`` of a channel, given the values in [-1, 1] of those before it."""
        mean = means[:, channel]
        first = channel * (channel - 1) // 2
        for before in range(channel):
            mean = mean + coefficients[:, first + before] * x[:, before : before + 1]
        return mean

    def _log_level(self, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """``log(sigmoid(b) - sigmoid(a))`` between the edges of the level's bin."""
        half = 1 / (self.levels - 1)
        inverse = (-log_scale).exp()
        a, b = (x - half - mean) * inverse, (x + half - mean) * inverse
        log_below_b, log_above_a = F.logsigmoid(b), F.logsigmoid(-a)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference of close numbers.
        inner = log_below_b + log_above_a + (-torch.expm1(-2 * half * inverse)).log()
        return torch.where(x < -1 + half, log_below_b, torch.where(x > 1 - half, log_above_a, inner))
