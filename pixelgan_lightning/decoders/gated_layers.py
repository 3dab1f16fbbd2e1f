"""The layers of the gated PixelCNN, which :mod:`.gated_network` puts together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gate(x: Tensor) -> Tensor:
    """``tanh(f) * sigmoid(g)`` of the two halves of the channels."""
    f, g = x.chunk(2, dim=1)
    if g.device.type == "cpu" and g.dtype == torch.bfloat16:  # six times as slow where pixels do not lie side by side
        g = g.contiguous(memory_format=torch.channels_last)
    return f.tanh() * g.sigmoid()


class EmptyCode(nn.Module):
    """An empty code enters as a constant: what remains of the conditioning is a bias."""

    def forward(self, z: Tensor) -> Tensor:
        return z.new_ones(len(z), 1, 1, 1)


class GatedLayer(nn.Module):
    """Both stacks: ``y = tanh(W_f * x + b_f(z)) . sigmoid(W_g * x + b_g(z))``, residual on the horizontal one.

    With 0 ``code_channels`` there is no ``b(z)``.
    """

    vertical: nn.Conv2d
    horizontal: nn.Conv2d
    link: nn.Conv2d
    out: nn.Conv2d
    bias: nn.Conv2d | None

    def __init__(self, channels: int, kernel: int, dilation: int, code_channels: int) -> None:
        super().__init__()
        self.reach, self.dilation = kernel // 2, dilation
        self.vertical = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel), dilation=dilation)
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, self.reach + 1), dilation=(1, dilation))
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)
        self.bias = nn.Conv2d(code_channels, 4 * channels, 1, bias=False) if code_channels else None

    def forward(self, v: Tensor, h: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """``v``, ``h``: ``[B, C, H, W]``; ``code``: ``[B, C', H, W]`` or ``[B, C', 1, 1]``."""
        bias_v, bias_h = self.biases(code)
        pad = self.reach * self.dilation
        # Row i of v knows image rows < i, so this layer may read rows <= i of v. Likewise for the columns of h.
        # In place where a convolution has just made the memory: a pass over it costs as much as a small convolution.
        v = gate(self.vertical(F.pad(v, (pad, pad, pad, 0))).add_(bias_v))
        h_gates = self.horizontal(F.pad(h, (pad, 0, 0, 0))).add_(self.link(v)).add_(bias_h)
        h = self.out(gate(h_gates)).add_(h)
        return v, h

    def biases(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What the code adds to both stacks before their gates, ``[B, 2C, H or 1, W or 1]`` each."""
        if self.bias is None:
            nothing = code.new_zeros(len(code), 2 * self.out.in_channels, 1, 1)
            return nothing, nothing
        bias_v, bias_h = self.bias(code).chunk(2, dim=1)
        return bias_v, bias_h


class Head(nn.Module):
    """Features of the horizontal stack to likelihood parameters, channel after channel.

    For each channel c: ``relu(W_c relu(h) + U_c x_<c)``, then a linear map to that channel's parameters. With one
    channel, or a likelihood that models channels jointly, there is no ``U``.
    """

    mask: Tensor

    def __init__(self, channels: int, groups: int, params: int) -> None:
        super().__init__()
        self.groups = groups
        self.hidden = nn.Conv2d(channels, groups * channels, 1)
        self.params = nn.Conv2d(groups * channels, params, 1, groups=groups)
        if groups > 1:
            self.colour_weight = nn.Parameter(torch.randn(groups * channels, groups, 1, 1) * groups**-0.5)
            mask = torch.ones(groups, groups).tril(-1).repeat_interleave(channels, 0)  # channel c reads channels < c
            self.register_buffer("mask", mask[:, :, None, None], persistent=False)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """``h``: ``[B, F, H, W]``, ``x``: ``[B, C, H, W]`` scaled to [-1, 1]; returns ``[B, P, H, W]``."""
        hidden = self.hidden(h.relu())
        if self.groups > 1:
            hidden = hidden + F.conv2d(x, self.colour_weight * self.mask)
        return self.params(hidden.relu_())
