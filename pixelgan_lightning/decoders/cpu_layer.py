"""A gated layer and its gradient for training on a CPU: the arithmetic of :class:`GatedLayer` in fewer passes.

There a pass over the features costs as much as a small convolution, so what is saved is passes:

- ``tanh(f) = 1 - 2 sigmoid(-2 f)``: with the weights of f times -2 (``p`` below), one sigmoid in place serves both
  halves of a gate, ``tanh(f) sigmoid(g) = s - 2 a s`` with ``a, s = sigmoid(p)`` is one more, its gradient three;
- a 1xk convolution is a matrix product for every tap, all into the same memory, and so is a 1x1 convolution: rows of
  these matrices are pixels, channels are columns;
- the first pixels of each row have no left neighbours: what a product shifted by some rows puts there is set to 0;
- the vertical convolution pads below as it pads above, inside of the convolution; the rows too many are not read;
- biases are added, and gradients from two sources are summed, in memory that exists already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from pixelgan_lightning.decoders.gated_pixelcnn import GatedLayer

aten = torch.ops.aten


def usable(v: Tensor) -> bool:
    """On a CPU in full precision; not under ``torch.compile`` or ``torch.func``, which need plain operations."""
    return (
        v.device.type == "cpu"
        and v.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def gated_layer(layer: GatedLayer, v: Tensor, h: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """``layer(v, h, code)`` where :func:`usable`; differentiable once."""
    c = layer.out.in_channels
    scale = torch.cat([v.new_full((c, 1, 1, 1), -2.0), v.new_ones(c, 1, 1, 1)])
    convolutions = (layer.vertical, layer.horizontal)
    biases = [
        (b if conv.bias is None else b + conv.bias.view(-1, 1, 1)) * scale[:, 0]
        for b, conv in zip(layer.biases(code), convolutions, strict=True)
    ]
    weights = [conv.weight * scale for conv in (*convolutions, layer.link)]
    return _GatedLayer.apply(v, h, *biases, *weights, layer.out.weight, layer.out.bias, layer.dilation)


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, h: Tensor, bias_v: Tensor, bias_h: Tensor, vertical: Tensor, horizontal: Tensor,
        link: Tensor, out: Tensor, out_bias: Tensor, dilation: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        height = v.shape[2]
        pad = (horizontal.shape[3] - 1) * dilation
        p_v = F.conv2d(v, vertical, padding=pad, dilation=dilation)[:, :, :height].add_(bias_v)
        new_v = _gate_(p_v)

        h_rows = _rows(h)
        p_rows = h_rows.new_empty(len(h_rows), len(link))
        p_h = _images(p_rows, v)
        *shifted, last = _taps(horizontal, dilation)
        for number, (weight, shift) in enumerate(shifted):
            p_rows[shift:].addmm_(h_rows[:-shift], weight.t(), beta=min(number, 1))  # 0: what was there is not read
            p_h[..., :shift] = 0
        p_rows.addmm_(h_rows, last[0].t()).addmm_(_rows(new_v), link.flatten(1).t())
        gated = _rows(_gate_(p_h.add_(bias_h)))
        new_h = (h_rows + out_bias).addmm_(gated, out.flatten(1).t())

        ctx.save_for_backward(v, h_rows, p_v, p_rows, new_v, gated, vertical, horizontal, link, out)
        ctx.bias_shapes, ctx.dilation = (bias_v.shape, bias_h.shape), dilation
        ctx.set_materialize_grads(False)
        return new_v, _images(new_h, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_new_v: Tensor | None, grad_new_h: Tensor | None) -> tuple[Tensor | None, ...]:
        v, h_rows, p_v, p_rows, new_v, gated, vertical, horizontal, link, out = ctx.saved_tensors
        batch, _, height, width = v.shape
        dilation = ctx.dilation
        pad = (horizontal.shape[3] - 1) * dilation
        grad_rows = torch.zeros_like(h_rows) if grad_new_h is None else _rows(grad_new_h)

        grad_out = grad_rows.t() @ gated
        g_rows = torch.empty_like(p_rows)
        g_h = _images(g_rows, v)
        _gate_backward(_images(grad_rows @ out.flatten(1), v), _images(p_rows, v), g_h)
        grad_bias_h = _sum_to(g_h, ctx.bias_shapes[1])
        grad_link = g_rows.t() @ _rows(new_v)
        grad_new_v_rows = g_rows.new_zeros(()) if grad_new_v is None else _rows(grad_new_v)
        grad_v = torch.addmm(grad_new_v_rows, g_rows, link.flatten(1))

        *shifted, last = _taps(horizontal, dilation)
        grad_h = torch.addmm(grad_rows, g_rows, last[0])
        grad_taps = [g_rows.t() @ h_rows]
        for weight, shift in reversed(shifted):
            g_h[..., :shift] = 0
            grad_h[:-shift].addmm_(g_rows[shift:], weight)
            grad_taps.insert(0, g_rows[shift:].t() @ h_rows[:-shift])

        padded = v.new_empty(batch, height + pad, width, len(link)).permute(0, 3, 1, 2)
        padded[:, :, height:] = 0
        g_v = padded[:, :, :height]
        _gate_backward(_images(grad_v, v), p_v, g_v)
        grad_v, grad_vertical, _ = aten.convolution_backward(
            padded, v, vertical, None, [1, 1], [pad, pad], [dilation, dilation], False, [0, 0], 1, [True, True, False]
        )
        grad_horizontal = torch.stack(grad_taps, 2).unsqueeze(2)
        return (
            grad_v, _images(grad_h, v), _sum_to(g_v, ctx.bias_shapes[0]), grad_bias_h, grad_vertical, grad_horizontal,
            grad_link.view_as(link), grad_out.view_as(out), grad_rows.sum(0), None,
        )  # fmt: skip


def _taps(weight: Tensor, dilation: int) -> list[tuple[Tensor, int]]:
    """The matrices ``[out, in]`` of a ``1xk`` convolution, and how far to the left each looks."""
    taps = weight.squeeze(2).unbind(2)
    return [(tap, (len(taps) - 1 - i) * dilation) for i, tap in enumerate(taps)]


def _gate_(p: Tensor) -> Tensor:
    """Overwrites ``p`` by its sigmoid, which is what :func:`_gate_backward` needs."""
    a, s = p.sigmoid_().chunk(2, 1)
    return torch.addcmul(s, a, s, value=-2)


def _gate_backward(grad: Tensor, sigmoid: Tensor, out: Tensor) -> None:
    """Writes the gradient by ``p`` into ``out``."""
    a, s = sigmoid.chunk(2, 1)
    grad_a, grad_s = out.chunk(2, 1)
    torch.addcmul(grad.new_zeros(()), grad, s, value=-2, out=grad_a)
    torch.addcmul(grad, grad, a, value=-2, out=grad_s)
    aten.sigmoid_backward.grad_input(out, sigmoid, grad_input=out)


def _rows(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B H W, C]``, without a copy if the channels of a pixel lie side by side."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """``[B H W, C]`` to ``[B, C, H, W]``, never a copy."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _sum_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a bias that was broadcast; never the memory of ``gradient``, which is used on."""
    return gradient.clone() if gradient.shape == shape else gradient.sum_to_size(shape)
