"""The gated layers and their gradient for training on a CPU: the arithmetic of :class:`GatedLayer` in fewer passes.

There a pass over the features costs as much as a small convolution, so what is saved is passes:

- ``tanh(f) = 1 - 2 sigmoid(-2 f)``: with the weights of f times -2, one sigmoid in place serves both halves of a gate,
  ``a, s = sigmoid(-2 f), sigmoid(g)``, and ``tanh(f) sigmoid(g) = s - 2 a s`` is one pass more. The gradients are
  ``4 grad s a (1 - a)`` by f and ``grad (1 - 2 a) s (1 - s)`` by g: three passes, and the 4 again with the weights;
- a 1xk convolution is a matrix product for every tap, all into the same memory, and so is a 1x1 convolution: rows of
  these matrices are pixels, channels are columns;
- the first pixels of each row have no left neighbours: what a product shifted by some rows puts there is set to 0;
- the vertical convolution pads below as it pads above, inside of the convolution; the rows too many are not read;
- biases are added, and gradients from two sources are summed, in memory that exists already;
- a few images at a time go through all layers, so that a pass finds in the cache what the one before it has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixelgan_lightning.decoders.gated_layers import GatedLayer

aten = torch.ops.aten

GATES_AT_ONCE = 2**20
"""Numbers, for each thread: 4 MB, of a layer's gates before the activation. Half or twice as many cost little."""


def usable(v: Tensor) -> bool:
    """On a CPU in full precision; not under ``torch.func``, which needs plain operations."""
    return (
        v.device.type == "cpu"
        and v.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def images_at_once(channels: int, height: int, width: int) -> int:
    """How many images should go through all layers together."""
    return max(1, GATES_AT_ONCE * torch.get_num_threads() // (2 * channels * height * width))


def gated_layers(layers: Sequence[GatedLayer], v: Tensor, h: Tensor, code: Tensor) -> Tensor:
    """The ``h`` that the last of some layers returns, where :func:`usable`; differentiable once."""
    tensors: list[Tensor] = []
    for layer in layers:
        convolutions = (layer.vertical, layer.horizontal)
        for bias, conv in zip(layer.biases(code), convolutions, strict=True):
            tensors.append(bias if conv.bias is None else bias + conv.bias.view(-1, 1, 1))
        tensors += [conv.weight for conv in (*convolutions, layer.link, layer.out)]
        tensors.append(cast("Tensor", layer.out.bias))
    return _GatedLayers.apply(v, h, [layer.dilation for layer in layers], *tensors)


class _GatedLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, h: Tensor, dilations: list[int], *tensors: Tensor) -> Tensor:
        h_rows = _rows(h)
        kept: list[Tensor] = []
        for layer, dilation in zip(_groups(tensors, 7), dilations, strict=True):
            bias_v, bias_h, *weights, out, out_bias = layer
            scale = _halves(-2, out)
            vertical, horizontal, link = (weight * scale for weight in weights)
            height = v.shape[2]
            pad = (horizontal.shape[3] - 1) * dilation
            p_v = F.conv2d(v, vertical, padding=pad, dilation=dilation)[:, :, :height].add_(bias_v * scale[:, 0])
            new_v = _gate_(p_v)

            p_rows = h_rows.new_empty(len(h_rows), len(link))
            p_h = _images(p_rows, v)
            *shifted, last = _taps(horizontal, dilation)
            for number, (weight, shift) in enumerate(shifted):
                p_rows[shift:].addmm_(h_rows[:-shift], weight.t(), beta=min(number, 1))  # 0: what was there is not read
                p_h[..., :shift] = 0
            p_rows.addmm_(h_rows, last[0].t()).addmm_(_rows(new_v), link.flatten(1).t())
            gated = _rows(_gate_(p_h.add_(bias_h * scale[:, 0])))

            kept += [v, h_rows, p_v, p_rows, new_v, gated, bias_v, bias_h, *weights, out]
            v, h_rows = new_v, (h_rows + out_bias).addmm_(gated, out.flatten(1).t())
        ctx.dilations = dilations
        ctx.save_for_backward(*kept)
        return _images(h_rows, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor] = []
        grad_h, grad_v = _rows(grad).clone(), None
        # Memory that all layers use in turn.
        batch, channels, height, width = grad.shape
        grad_gated = torch.empty_like(grad_h)
        g_rows = grad_h.new_empty(len(grad_h), 2 * channels)
        g_h = _images(g_rows, grad)
        padded: dict[int, Tensor] = {}

        for layer, dilation in zip(reversed(_groups(ctx.saved_tensors, 12)), reversed(ctx.dilations), strict=True):
            v, h_rows, p_v, p_rows, new_v, gated, bias_v, bias_h, *weights, out = layer
            scale = _halves(4, out)  # what _gate_backward leaves to be done
            vertical, horizontal, link = (weight * scale for weight in weights)

            grad_out, grad_out_bias = grad_h.t() @ gated, grad_h.sum(0)
            torch.mm(grad_h, out.flatten(1), out=grad_gated)
            _gate_backward(_images(grad_gated, v), _images(p_rows, v), g_h)
            grad_bias_h = g_h.sum_to_size(bias_h.shape) * scale[:, 0]
            grad_link = g_rows.t() @ _rows(new_v)
            if grad_v is None:
                grad_v = g_rows @ link.flatten(1)
            else:
                grad_v = _rows(grad_v).addmm_(g_rows, link.flatten(1))

            *shifted, last = _taps(horizontal, dilation)
            grad_h.addmm_(g_rows, last[0])
            grad_taps = [g_rows.t() @ h_rows]
            for weight, shift in reversed(shifted):
                g_h[..., :shift] = 0
                grad_h[:-shift].addmm_(g_rows[shift:], weight)
                grad_taps.insert(0, g_rows[shift:].t() @ h_rows[:-shift])

            pad = (horizontal.shape[3] - 1) * dilation
            if pad not in padded:
                padded[pad] = v.new_empty(batch, height + pad, width, 2 * channels).permute(0, 3, 1, 2)
                padded[pad][:, :, height:] = 0
            g_v = padded[pad][:, :, :height]
            _gate_backward(_images(grad_v, v), p_v, g_v)
            grad_bias_v = g_v.sum_to_size(bias_v.shape) * scale[:, 0]
            grad_v, grad_vertical, _ = aten.convolution_backward(
                padded[pad], v, vertical, None, [1, 1], [pad, pad], [dilation, dilation], False, [0, 0], 1,
                [True, True, False],
            )  # fmt: skip
            grad_weights = (grad_vertical, torch.stack(grad_taps, 2), grad_link)
            grads = [
                grad_bias_v,
                grad_bias_h,
                *(_in_layout_of(w, grad.view_as(w) * scale) for w, grad in zip(weights, grad_weights, strict=True)),
                _in_layout_of(out, grad_out.view_as(out)),
                grad_out_bias,
                *grads,
            ]
        return grad_v, _images(grad_h, grad), None, *grads


def _groups(tensors: Sequence[Tensor], size: int) -> list[Sequence[Tensor]]:
    return [tensors[i : i + size] for i in range(0, len(tensors), size)]


def _halves(first: float, like: Tensor) -> Tensor:
    """``[2C, 1, 1, 1]``: a factor for the outputs f, and 1 for the outputs g, of a weight that reads C channels."""
    c = like.shape[1]
    return torch.cat([like.new_full((c, 1, 1, 1), first), like.new_ones(c, 1, 1, 1)])


def _in_layout_of(weight: Tensor, gradient: Tensor) -> Tensor:
    """``gradient`` with the strides of its weight, as DDP wants it: those of 1x1 kernels are not unique."""
    return torch.empty_like(weight).copy_(gradient)


def _taps(weight: Tensor, dilation: int) -> list[tuple[Tensor, int]]:
    """The matrices ``[out, in]`` of a ``1xk`` convolution, and how far to the left each looks."""
    taps = weight.squeeze(2).unbind(2)
    return [(tap, (len(taps) - 1 - i) * dilation) for i, tap in enumerate(taps)]


def _gate_(p: Tensor) -> Tensor:
    """Overwrites ``p`` by its sigmoid, which is what :func:`_gate_backward` needs."""
    a, s = p.sigmoid_().chunk(2, 1)
    return torch.addcmul(s, a, s, value=-2)


def _gate_backward(grad: Tensor, sigmoid: Tensor, out: Tensor) -> None:
    """Writes the gradient by f over 4, and the gradient by g, into ``out``."""
    a, s = sigmoid.chunk(2, 1)
    grad_a, grad_s = out.chunk(2, 1)
    torch.mul(grad, s, out=grad_a)
    torch.addcmul(grad, grad, a, value=-2, out=grad_s)
    aten.sigmoid_backward.grad_input(out, sigmoid, grad_input=out)


def _rows(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B H W, C]``, without a copy if the channels of a pixel lie side by side."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """``[B H W, C]`` to ``[B, C, H, W]``, never a copy."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
