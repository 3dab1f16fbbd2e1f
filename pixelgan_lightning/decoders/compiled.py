"""Sampling from a gated PixelCNN by a compiled loop over the pixels, several times as fast as PyTorch's operations.

It needs numba (the extra ``fast``), a CPU, float32 or float64, and a likelihood that the loop
knows. The work is that of ``incremental.py``.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelgan_lightning.decoders.base import Known
from pixelgan_lightning.decoders.gated_network import GatedNetwork
from pixelgan_lightning.decoders.incremental import over_threads
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels

Array = np.ndarray[Any, Any]

# p1, p2, p3, q1, q2, q3 of p(x) = x (1 + p1 x^2 + ...) and q(x) = 1 + q1 x^2 + ..., where p(x) / q(x) are the first
# seven terms of Lambert's continued fraction of tanh; then 1, 1/2, 1/4, the limit of x and 0, in the network's type.
LAMBERT = (*(p / 135135 for p in (17325, 378, 1, 62370, 3150, 28)), 1, 0.5, 0.25, 4.5, 0)


def why_not(decoder: GatedNetwork, z: Tensor) -> str | None:
    """Why the compiled loop cannot draw from this decoder, or None if it can."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install numba)"
    if z.device.type != "cpu":
        return f"it runs on a CPU, not on device {z.device.type}"
    if z.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, not in {z.dtype}"
    if type(decoder.likelihood) not in (Bernoulli, CategoricalLevels):
        return f"it draws from Bernoulli and CategoricalLevels, not from {type(decoder.likelihood).__name__}"
    return None


def worth_compiling(decoder: GatedNetwork, z: Tensor) -> bool:
    """Whether so many pixels are drawn that compiling, which is needed once on a machine, may pay."""
    return z.dtype == torch.float32 and len(z) * decoder.image_shape[1] * decoder.image_shape[2] >= 50_000


@torch.no_grad()
def sample_compiled(
    decoder: GatedNetwork, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None
) -> Tensor:
    """As :func:`~pixelgan_lightning.decoders.incremental.sample_incrementally`, where :func:`why_not` gives None.

    The first call compiles, some ten seconds, or loads what an earlier process compiled.
    """
    from pixelgan_lightning.decoders.kernels import image_loop  # needs numba

    colours, height, width = decoder.image_shape
    batch, c = len(z), decoder.channels
    code = decoder.code_map(z)
    layers = decoder.gated_layers()

    def flat(*parts: Tensor | None) -> Array:
        """All numbers one behind the other."""
        numbers = [p.detach().to(z).reshape(-1) for p in parts if p is not None]
        return torch.cat(numbers).numpy() if numbers else np.zeros(0, z.new_zeros(0).numpy().dtype)

    def last(bias: Tensor) -> Tensor:
        """``[1 or B, F, H or 1, W or 1]`` to ``[B, H or 1, W or 1, F]``."""
        return bias.expand(batch, -1, -1, -1).permute(0, 2, 3, 1)

    def steps(bias: Tensor) -> list[int]:
        """How far the numbers of the next image, row and column are, 0 where there is one for all."""
        _, h, w, f = bias.shape
        return [h * w * f, w * f if h > 1 else 0, f if w > 1 else 0]

    def bias_of(convolution: nn.Conv2d) -> Tensor:
        assert convolution.bias is not None
        return convolution.bias

    no_bias = z.new_zeros(1, c, 1, 1)
    bias_v, bias_h = (last(b if isinstance(b, Tensor) else no_bias) for b in decoder.first_biases(code))
    first = (
        flat(decoder.first_vertical.weight.permute(2, 3, 1, 0)),
        flat(decoder.first_horizontal.weight.permute(2, 3, 1, 0)),
        flat(decoder.first_link.weight.flatten(1).t()),
        flat(bias_v + bias_of(decoder.first_vertical)),
        flat(bias_h + bias_of(decoder.first_horizontal)),
        np.array(steps(bias_v)),
    )
    biases = [tuple(last(b) for b in layer.biases(code)) for layer in layers]
    biases_v = [b + bias_of(layer.vertical) for (b, _), layer in zip(biases, layers, strict=True)]
    biases_h = [b + bias_of(layer.horizontal) for (_, b), layer in zip(biases, layers, strict=True)]
    bias_steps = [biases_v[0].numel(), *steps(biases_v[0])] if layers else [0, 0, 0, 0]
    gated = (
        flat(*(layer.vertical.weight.permute(2, 3, 1, 0) for layer in layers)),
        flat(*(layer.horizontal.weight.permute(2, 3, 1, 0) for layer in layers)),
        flat(*(layer.link.weight.flatten(1).t() for layer in layers)),
        flat(*(layer.out.weight.flatten(1).t() for layer in layers)),
        flat(*(layer.out.bias for layer in layers)),
        flat(*biases_v),
        flat(*biases_h),
        np.array(bias_steps),
    )
    head = decoder.head
    per_value = head.params.out_channels // colours
    colour_weight = head.colour_weight * head.mask if head.groups > 1 else z.new_zeros(0)
    parameters = (
        flat(head.hidden.weight.view(colours, c, c).transpose(1, 2)),
        flat(head.hidden.bias),
        flat(colour_weight.view(-1, c, colours).transpose(1, 2)),
        flat(head.params.weight.view(colours, -1, c).transpose(1, 2)),
        flat(head.params.bias),
    )
    x = z.new_empty(batch, height, width, colours)
    draws = uniforms.detach().contiguous().numpy()
    given = np.zeros((height, width), bool) if known is None else known.mask.numpy()
    images = x if known is None else known.image.to(z).permute(0, 2, 3, 1).contiguous()
    numbers = x.numpy().dtype
    loop = image_loop(c, exact=z.dtype == torch.float64)

    def draw(part: slice) -> Tensor:
        loop(
            x.numpy(),
            draws,
            given,
            images.numpy(),
            (part.start, part.stop, height, width, colours, decoder.likelihood.levels, per_value),
            (decoder.first_kernel // 2, decoder.kernel // 2),
            np.array(decoder.dilations, np.int64),
            first,
            gated,
            parameters,
            float(temperature),
            np.array(LAMBERT, numbers),
        )
        return x[part]

    over_threads(draw, batch)
    return x.permute(0, 3, 1, 2).contiguous()
