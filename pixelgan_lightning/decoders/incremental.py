"""Sampling from a gated PixelCNN without repeating work.

The vertical stack of a row depends on the rows above only: it is computed once per row. The horizontal stack of a
pixel depends on its left neighbours' features, which were computed when they were drawn: only one new column is
computed per pixel. All features of earlier rows and columns are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from pixelgan_lightning.decoders.base import Known
    from pixelgan_lightning.decoders.gated_pixelcnn import GatedLayer, GatedPixelCNN


def sample_incrementally(
    decoder: GatedPixelCNN, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None
) -> Tensor:
    """The same images as :func:`~pixelgan_lightning.decoders.base.sample_by_full_passes`, one pixel at a time.

    Args:
        decoder: a built decoder.
        z: codes ``[B, code_dim]``.
        uniforms: ``[B, H, W, U]``.
        temperature: divides the logits.
        known: pixels that are given.
    """
    colours, height, width = decoder.image_shape
    batch = len(z)
    reach = decoder.first_kernel // 2
    x = z.new_zeros(batch, colours, height, width)
    # The image in [-1, 1] with the zeros that the convolutions pad, so that every window is a plain slice.
    padded = z.new_zeros(batch, colours, reach + height, reach + width + reach)
    code = decoder.code_map(z)
    layers = [_LayerState(layer, code, batch, height, width) for layer in decoder.gated_layers()]
    first_weight = decoder.first_horizontal.weight.flatten(1).t().contiguous()  # [(colour, column), C]
    head = _HeadState(decoder)
    no_bias = code.new_zeros(1, decoder.channels, 1, 1)
    first_bias_v, first_bias_h = (b if isinstance(b, Tensor) else no_bias for b in decoder.first_biases(code))
    given = known.mask.tolist() if known is not None else None

    for row in range(height):
        v = decoder.first_vertical(padded[:, :, row : row + reach, :]) + _row(first_bias_v, row)  # [B, C, 1, W]
        left = decoder.first_link(v) + _bias(decoder.first_horizontal).view(1, -1, 1, 1) + _row(first_bias_h, row)
        left = left.squeeze(2).permute(2, 0, 1).contiguous()  # [W, B, C]
        for layer in layers:
            v = layer.start_row(v, row)
        for column in range(width):
            window = padded[:, :, reach + row, column : column + reach].reshape(batch, -1)
            h = torch.addmm(left[column], window, first_weight)
            for layer in layers:
                h = layer.step(h, column)
            if known is not None and given is not None and given[row][column]:
                values = known.image[:, :, row, column].to(x)
            else:
                values = head.sample(h, uniforms[:, row, column], temperature)  # [B, colours]
            x[:, :, row, column] = values
            padded[:, :, reach + row, reach + column] = 2 * values - 1
    return x


class _LayerState:
    """What one gated layer remembers: its vertical inputs of all rows, its horizontal inputs of this row."""

    def __init__(self, layer: GatedLayer, code: Tensor, batch: int, height: int, width: int) -> None:
        self.layer = layer
        self.pad = layer.reach * layer.dilation
        channels = layer.out.in_channels
        self.bias_v, self.bias_h = layer.biases(code)  # [B, 2C, H or 1, W or 1]
        self.rows = code.new_zeros(batch, channels, self.pad + height, self.pad + width + self.pad)
        self.columns = code.new_zeros(batch, self.pad + width, channels)
        # Weights as matrices that a window [B, (column, channel)] is multiplied with.
        self.weight = layer.horizontal.weight.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous()
        self.out_weight = layer.out.weight.flatten(1).t().contiguous()

    def start_row(self, v: Tensor, row: int) -> Tensor:
        """Vertical stack of a whole row ``[B, C, 1, W]``; also what the horizontal stack of that row starts from."""
        layer, pad = self.layer, self.pad
        self.rows[:, :, pad + row, pad : pad + v.shape[3]] = v[:, :, 0]
        v = layer.vertical(self.rows[:, :, row : row + pad + 1]) + _row(self.bias_v, row)
        f, g = v.chunk(2, dim=1)
        v = f.tanh() * g.sigmoid()
        start = layer.link(v) + _row(self.bias_h, row) + _bias(layer.horizontal).view(1, -1, 1, 1)
        self.start = start.squeeze(2).permute(2, 0, 1).contiguous()  # [W, B, 2C]
        return v

    def step(self, h: Tensor, column: int) -> Tensor:
        """Horizontal stack of one pixel, ``[B, C]`` to ``[B, C]``."""
        self.columns[:, self.pad + column] = h
        window = self.columns[:, column : column + self.pad + 1 : self.layer.dilation].reshape(len(h), -1)
        f, g = torch.addmm(self.start[column], window, self.weight).chunk(2, dim=1)
        return torch.addmm(_bias(self.layer.out), f.tanh() * g.sigmoid(), self.out_weight) + h


class _HeadState:
    """The head's weights as matrices, one set per channel group."""

    def __init__(self, decoder: GatedPixelCNN) -> None:
        head = decoder.head
        self.likelihood, self.groups = decoder.likelihood, head.groups
        self.hidden = _matrices(head.hidden, head.groups)
        self.params = _matrices(head.params, head.groups)
        self.colours = (head.colour_weight * head.mask).flatten(1).chunk(head.groups) if head.groups > 1 else ()

    def sample(self, h: Tensor, u: Tensor, temperature: float) -> Tensor:
        """The values ``[B, C]`` of one pixel from its features ``[B, F]`` and draws ``[B, U]``."""
        h = h.relu()
        if self.likelihood.channels_jointly:
            params = F.linear(F.linear(h, *self.hidden[0]).relu(), *self.params[0])
            return self.likelihood.sample(params, u, temperature)
        values = h.new_zeros(len(h), self.groups)
        for c in range(self.groups):
            hidden = F.linear(h, *self.hidden[c])
            if c > 0:
                hidden = hidden + F.linear(2 * values - 1, self.colours[c])
            params = F.linear(hidden.relu(), *self.params[c])
            values[:, c : c + 1] = self.likelihood.sample(params, u[:, c : c + 1], temperature)
        return values


def _row(bias: Tensor, row: int) -> Tensor:
    """The row of a conditioning bias that differs from row to row, or the only one."""
    return bias[:, :, row : row + 1] if bias.shape[2] > 1 else bias


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _matrices(conv: nn.Conv2d, groups: int) -> list[tuple[Tensor, Tensor]]:
    """The weight ``[out, in]`` and bias of each group of output channels of a 1x1 convolution."""
    return list(zip(conv.weight.flatten(1).chunk(groups), _bias(conv).chunk(groups), strict=True))
