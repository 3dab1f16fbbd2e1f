"""The decoder's pass as it was before any of the work on speed, in plain NCHW: what the samplers are compared with.

It is not to be made faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelgan_lightning.decoders import GatedPixelCNN


def forward(decoder: GatedPixelCNN, x: Tensor, z: Tensor) -> Tensor:
    """What ``decoder(x, z)`` returns, for one colour and a bias in every layer."""
    x, code = (2 * x - 1).contiguous(), decoder.code_map(z)
    reach = decoder.first_kernel // 2
    v = _convolve(decoder.first_vertical, F.pad(x, (reach, reach, reach, -1)))
    h = _convolve(decoder.first_horizontal, F.pad(x, (reach, -1, 0, 0))) + _convolve(decoder.first_link, v)
    for layer in decoder.gated_layers():
        pad = layer.reach * layer.dilation
        bias_v, bias_h = layer.biases(code)
        v = _gate(_convolve(layer.vertical, F.pad(v, (pad, pad, pad, 0))) + bias_v)
        before = _convolve(layer.horizontal, F.pad(h, (pad, 0, 0, 0))) + _convolve(layer.link, v) + bias_h
        h = h + _convolve(layer.out, _gate(before))
    return _convolve(decoder.head.params, _convolve(decoder.head.hidden, h.relu()).relu())


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight.contiguous(memory_format=torch.contiguous_format), conv.bias, dilation=conv.dilation)


def _gate(x: Tensor) -> Tensor:
    f, g = x.chunk(2, dim=1)
    return f.tanh() * g.sigmoid()
