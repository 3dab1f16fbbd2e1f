"""Sampling from a gated PixelCNN without repeating work.

The vertical stack of a row depends on the rows above only: it is computed once per row. The horizontal stack of a
pixel depends on its left neighbours' features, which were computed when they were drawn: only one new column is
computed per pixel. All features of earlier rows and columns are kept.

A pixel takes so little arithmetic that calling an operation costs more than what it computes. So everything is a
matrix product into memory that was set aside before, four operations for a layer:

- ``tanh(f) = 2 sigmoid(2 f) - 1``, so one sigmoid serves both halves of a gate (with the weights of f doubled), and
  ``W (tanh(f) sigmoid(g)) = [2 W, -W] [sigmoid(2f) sigmoid(g), sigmoid(g)]`` leaves the rest to the next product;
- the horizontal features are kept without the biases of the residual convolutions, which are constants: ``h - offset``;
- what the operations read and write are views that were made before the loop.

Every row takes the same operations on the same memory. On a CUDA GPU, where calling an operation costs most, the second
row is recorded as a CUDA graph, which draws it and all others. Recording costs about a row, so no graph is kept for
later, when weights may have changed.

Small operations get slower with two threads. Images are spread over threads instead, where there are enough of them:
the threads take turns at calling operations, which for few images is most of the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from pixelgan_lightning.decoders.base import Known
from pixelgan_lightning.decoders.gated_layers import GatedLayer
from pixelgan_lightning.decoders.gated_network import GatedNetwork
from pixelgan_lightning.numerics.cuda_graphs import CUDAGraphs, Recorder

NUMBERS_PER_THREAD = 1536
"""Images times channels that a thread should have: from about twice as many on, two threads were faster than one."""


@torch.no_grad()
def sample_incrementally(
    decoder: GatedNetwork,
    z: Tensor,
    uniforms: Tensor,
    temperature: float = 1.0,
    known: Known | None = None,
    graph: bool = True,
) -> Tensor:
    """The same images as :func:`~pixelgan_lightning.decoders.base.sample_by_full_passes`, one pixel at a time.

    Nothing in it waits for the device. On a CPU, many images are spread over ``torch.get_num_threads()`` threads.

    Args:
        decoder: a built decoder.
        z: codes ``[B, code_dim]``.
        uniforms: ``[B, H, W, U]``.
        temperature: divides the logits.
        known: pixels that are given.
        graph: on a CUDA GPU, replay a row; without, its operations are called one by one. The images are the same.
    """
    code = decoder.code_map(z)
    recorder = CUDAGraphs() if graph and z.is_cuda and torch.cuda.is_available() else None

    def draw(part: slice) -> Tensor:
        mine = None if known is None else Known(known.image[part], known.mask)
        return _Sampler(decoder, code[part], uniforms[part], temperature, mine).draw(recorder)

    if z.device.type != "cpu":
        return draw(slice(None))
    return torch.cat(over_threads(draw, len(z), at_least=-(-NUMBERS_PER_THREAD // decoder.channels)))


def over_threads(work: Callable[[slice], Tensor], n: int, at_least: int = 1) -> list[Tensor]:
    """``work`` on slices of ``range(n)``, one for each of ``torch.get_num_threads()`` threads, each a single thread.

    Args:
        work: is given a slice.
        n: how much there is.
        at_least: so many for each thread; where there are fewer for all, there are fewer threads.
    """
    before = torch.get_num_threads()
    threads = max(1, min(before, n // at_least))
    bounds = [i * n // threads for i in range(threads + 1)]
    slices = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    if threads == 1:
        try:
            torch.set_num_threads(1)
            return [work(slices[0])]
        finally:
            torch.set_num_threads(before)

    def single() -> None:
        # A thread takes over the last setting of any thread the first time it asks, and keeps its own from then on.
        torch.get_num_threads()
        torch.set_num_threads(1)

    def without_gradients(part: slice) -> Tensor:
        with torch.no_grad():  # a setting of the thread, too
            return work(part)

    try:
        with ThreadPoolExecutor(threads, initializer=single) as pool:
            return list(pool.map(without_gradients, slices))
    finally:
        torch.set_num_threads(before)  # for threads to come


class _Sampler:
    """The state of the loop over rows and pixels, for one set of codes.

    What differs from row to row is chosen by ``row``, which lies on the device, or lies in ``values`` and ``given``.
    """

    def __init__(
        self, decoder: GatedNetwork, code: Tensor, uniforms: Tensor, temperature: float, known: Known | None
    ) -> None:
        self.decoder, self.temperature = decoder, temperature
        colours, height, width = decoder.image_shape
        batch, channels = len(code), decoder.channels
        reach = decoder.first_kernel // 2
        self.row = torch.zeros(1, dtype=torch.int64, device=code.device)
        self.uniforms = uniforms.permute(1, 2, 0, 3).contiguous()  # [H, W, B, U]
        self.values = code.new_zeros(width, batch, colours)  # the pixels of the row, in [0, 1]
        self.images = code.new_zeros(height, width, batch, colours)
        self.given = self.mask = None
        self.given_rows = [False] * height
        if known is not None:
            self.images.copy_(known.image.permute(2, 3, 0, 1))
            self.given_rows = known.mask.all(1).tolist()
            if (known.mask.any(1) & ~known.mask.all(1)).any():
                self.mask = known.mask.view(height, width, 1, 1).to(code.device)
                self.given = torch.zeros_like(self.mask[0])  # [W, 1, 1]

        # The rows above in [-1, 1] with the zeros that the convolutions pad; `line` is the row.
        self.above = code.new_zeros(batch, colours, reach, reach + width + reach)
        self.line = code.new_zeros(batch, reach + width, colours)
        self.scaled = [self.line[:, reach + c] for c in range(width)]  # where the values of a pixel go
        self.minus_one = -torch.ones_like(self.scaled[0])
        self.windows = [self.line[:, c : c + reach].flatten(1) for c in range(width)]
        self.first_weight = decoder.first_horizontal.weight.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous()
        no_bias = code.new_zeros(1, channels, 1, 1)
        self.bias_v, self.bias_h = (b if isinstance(b, Tensor) else no_bias for b in decoder.first_biases(code))

        self.layers = []
        offset = code.new_zeros(channels)
        for layer in decoder.gated_layers():
            self.layers.append(_LayerState(layer, code, batch, width, offset))
            offset = offset + _bias(layer.out)
        self.features = code.new_zeros(batch, channels)  # of the horizontal stack, above all layers
        self.head = _Head(decoder, offset)
        # Where the features that go into each layer are written, column by column; at last those for the head.
        self.slots = [*(layer.slots for layer in self.layers), [self.features] * width]

    def draw(self, recorder: Recorder | None = None) -> Tensor:
        """All images, ``[B, C, H, W]``; with a ``recorder`` the second row that is drawn is recorded."""
        draw_row, refusal = self.draw_row, None
        rows_drawn = 0
        for row, is_given in enumerate(self.given_rows):
            self.row.fill_(row)
            self.values.copy_(self.images[row])
            if is_given:
                self.pass_row()
                continue
            if self.given is not None and self.mask is not None:
                self.given.copy_(self.mask[row])
            if recorder is not None and rows_drawn == 0:
                refusal = recorder.rehearse(draw_row)
            else:
                if recorder is not None and rows_drawn == 1:
                    draw_row = _recorded(draw_row, recorder, refusal)
                draw_row()
            rows_drawn += 1
            self.images[row] = self.values
        return self.images.permute(2, 3, 0, 1).contiguous()

    def draw_row(self) -> None:
        """Draw the pixels of a row that are not given."""
        start = self.start_row()
        draws = self.uniforms.index_select(0, self.row)[0].unbind()
        for column, values in enumerate(self.values.unbind()):
            drawn = self.head.sample(self.step(start, column), draws[column], self.temperature)
            if self.given is not None:
                drawn = torch.where(self.given[column], values, drawn)
            values.copy_(drawn)
            torch.add(self.minus_one, values, alpha=2, out=self.scaled[column])
        self.end_row()

    def pass_row(self) -> None:
        """A row that is given: rows below see it through the vertical stacks alone."""
        self.start_row()
        self.line[:, self.decoder.first_kernel // 2 :] = (2 * self.values - 1).transpose(0, 1)
        self.end_row()

    def start_row(self) -> tuple[Tensor, ...]:
        """The vertical stacks of a row; returns what they add to each column of the input layer, ``[B, C]`` each."""
        decoder = self.decoder
        v = decoder.first_vertical(self.above) + _row(self.bias_v, 2, self.row)  # [B, C, 1, W]
        start = decoder.first_link(v) + _bias(decoder.first_horizontal).view(1, -1, 1, 1)
        start = start + _row(self.bias_h, 2, self.row)
        rows = v.squeeze(2).transpose(1, 2).contiguous()  # [B, W, C]
        for layer in self.layers:
            rows = layer.start_row(rows, self.row)
        return start.squeeze(2).permute(2, 0, 1).contiguous().expand(decoder.image_shape[2], -1, -1).unbind()

    def step(self, start: tuple[Tensor, ...], column: int) -> Tensor:
        """The horizontal stacks of one pixel; returns their features ``[B, C]`` without the biases."""
        h = self.slots[0][column]
        torch.addmm(start[column], self.windows[column], self.first_weight, out=h)
        for layer, slots in zip(self.layers, self.slots[1:], strict=True):
            gates, f, g = layer.gates[column]
            gates.addmm_(layer.windows[column], layer.weight).sigmoid_()
            torch.mul(f, g, out=f)
            h = torch.addmm(h, gates, layer.out_weight, out=slots[column])
        return h

    def end_row(self) -> None:
        """The row becomes the last of those above."""
        reach = self.decoder.first_kernel // 2
        _append(self.above.transpose(1, 2), F.pad(self.line[:, reach:].transpose(1, 2), (reach, reach)))


class _LayerState:
    """What one gated layer remembers: its vertical inputs of the rows it sees, its horizontal inputs of this row."""

    def __init__(self, layer: GatedLayer, code: Tensor, batch: int, width: int, offset: Tensor) -> None:
        channels, reach, dilation = layer.out.in_channels, layer.reach, layer.dilation
        self.dilation, self.pad = dilation, reach * dilation
        bias_v, bias_h = layer.biases(code)  # [B, 2C, H or 1, W or 1]
        weight = _doubled(layer.horizontal.weight.squeeze(2).permute(2, 1, 0))  # [tap, C, 2C]
        constant = _doubled(_bias(layer.horizontal)) + (offset @ weight).sum(0)
        self.bias_v = _channels_last(bias_v + _bias(layer.vertical).view(1, -1, 1, 1))
        self.bias_h = _doubled(_channels_last(bias_h)) + constant

        # Vertical: the padded input, and the windows of a row as a matrix.
        self.rows = code.new_zeros(batch, self.pad + 1, self.pad + width + self.pad, channels)
        self.patches = code.new_empty(batch, width, reach + 1, 2 * reach + 1, channels)
        self.vertical_weight = layer.vertical.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
        self.link_weight = _doubled(layer.link.weight.flatten(1).t())
        # What it adds to the gates of each column, which are then computed in place.
        self.starts = code.new_empty(batch, width, 2 * channels)
        self.gates = [(gates, *gates.chunk(2, 1)) for gates in self.starts.unbind(1)]

        # Horizontal: columns that a window reads together lie side by side, whatever the dilation. The padding stands
        # for features of zero, of which the offset is subtracted like from all others.
        per_class = -(-width // dilation) + reach
        columns = (-offset).expand(batch, dilation, per_class, channels).contiguous()
        places = [divmod(c, dilation) for c in range(width)]
        self.slots = [columns[:, d, reach + i] for i, d in places]
        self.windows = [columns[:, d, i : i + reach + 1].flatten(1) for i, d in places]
        self.weight = weight.flatten(0, 1).contiguous()
        out = layer.out.weight.flatten(1).t()
        self.out_weight = torch.cat([2 * out, -out])

    def start_row(self, v: Tensor, row: Tensor) -> Tensor:
        """The vertical stack of a row, ``[B, W, C]`` to the same; sets what the horizontal one of it starts from."""
        batch, width, _ = v.shape
        _append(self.rows, F.pad(v, (0, 0, self.pad, self.pad)))
        window = self.rows[:, :: self.dilation].unfold(2, 2 * self.pad + 1, 1)
        self.patches.copy_(window[..., :: self.dilation].permute(0, 2, 1, 4, 3))
        f, g = (
            torch.mm(self.patches.view(batch * width, -1), self.vertical_weight)
            .view(batch, width, -1)
            .add_(_row(self.bias_v, 1, row).squeeze(1))
            .chunk(2, 2)
        )
        v = f.tanh() * g.sigmoid()
        torch.matmul(v, self.link_weight, out=self.starts).add_(_row(self.bias_h, 1, row).squeeze(1))
        return v


class _Head:
    """The head's weights as matrices, one set per channel group, for features without their ``offset``."""

    def __init__(self, decoder: GatedNetwork, offset: Tensor) -> None:
        head = decoder.head
        self.likelihood, self.groups = decoder.likelihood, head.groups
        self.least = -offset  # relu(h) = max(h - offset, -offset) + offset
        self.hidden = [
            (weight.t().contiguous(), bias + weight @ offset) for weight, bias in _matrices(head.hidden, head.groups)
        ]
        self.params = [(weight.t().contiguous(), bias) for weight, bias in _matrices(head.params, head.groups)]
        self.colours = (head.colour_weight * head.mask).flatten(1).chunk(head.groups) if head.groups > 1 else ()

    def sample(self, h: Tensor, u: Tensor, temperature: float) -> Tensor:
        """The values ``[B, C]`` of one pixel from its features ``[B, F]`` and draws ``[B, U]``."""
        h = torch.maximum(h, self.least)
        if self.groups == 1:
            return self.likelihood.sample(self._group(h, 0), u, temperature)
        values = h.new_zeros(len(h), self.groups)
        for c in range(self.groups):
            params = self._group(h, c, values if c > 0 else None)
            values[:, c : c + 1] = self.likelihood.sample(params, u[:, c : c + 1], temperature)
        return values

    def _group(self, h: Tensor, c: int, values: Tensor | None = None) -> Tensor:
        weight, bias = self.hidden[c]
        hidden = torch.addmm(bias, h, weight)
        if values is not None:
            hidden += F.linear(2 * values - 1, self.colours[c])
        weight, bias = self.params[c]
        return torch.addmm(bias, hidden.relu_(), weight)


def _recorded(work: Callable[[], None], recorder: Recorder, refusal: str | None) -> Callable[[], None]:
    """``work`` as one call; or ``work``, with a warning, where there is a ``refusal`` or recording fails."""
    if refusal is None:
        try:
            return recorder.record(work)
        except RuntimeError as error:  # of CUDA
            refusal = str(error).partition("\n")[0]
    rank_zero_warn(f"Sampling goes on without a CUDA graph, which is slower: {refusal}")
    return work


def _doubled(weight: Tensor) -> Tensor:
    """The first half of the last dimension, which belongs to the tanh, times two."""
    f, g = weight.chunk(2, -1)
    return torch.cat([2 * f, g], -1)


def _channels_last(bias: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, H, W, C]``."""
    return bias.permute(0, 2, 3, 1).contiguous()


def _row(bias: Tensor, dim: int, row: Tensor) -> Tensor:
    """The row of a conditioning bias that differs from row to row along ``dim``, or the only one."""
    return bias.index_select(dim, row) if bias.shape[dim] > 1 else bias


def _append(rows: Tensor, new: Tensor) -> None:
    """Forget the first of ``rows`` ``[B, R, ...]`` and put ``new`` at the end."""
    rows[:, :-1] = rows[:, 1:].clone()
    rows[:, -1] = new


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _matrices(conv: nn.Conv2d, groups: int) -> list[tuple[Tensor, Tensor]]:
    """The weight ``[out, in]`` and bias of each group of output channels of a 1x1 convolution."""
    return list(zip(conv.weight.flatten(1).chunk(groups), _bias(conv).chunk(groups), strict=True))
