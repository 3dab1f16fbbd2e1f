"""The conditional gated PixelCNN (van den Oord et al., 2016; PixelGAN autoencoders, section 2).

Two stacks of convolutions read the pixels before pixel ``*`` in raster order::

    v v v v v v v        the vertical stack sees the rows above, as wide as it likes;
    v v v v v v v        the horizontal stack sees the row of the pixel, to its left,
    h h h * . . .        and is fed from the vertical one: together there is no blind spot.
    . . . . . . .

Causality comes from shifts, not from masks: the image is padded at the top and at the left and convolved with kernels
that hold no zeros, so no arithmetic is spent on pixels that may not be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelgan_lightning.decoders import cpu_layer
from pixelgan_lightning.decoders.base import Decoder, Known, Offset
from pixelgan_lightning.decoders.compiled import sample_compiled, why_not, worth_compiling
from pixelgan_lightning.decoders.incremental import sample_incrementally
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Likelihood

Bias = Literal["location_invariant", "location_dependent"]
Condition = Literal["every_layer", "input_layer"]
Sampler = Literal["auto", "incremental", "compiled"]


def gate(x: Tensor) -> Tensor:
    """``tanh(f) * sigmoid(g)`` of the two halves of the channels."""
    f, g = x.chunk(2, dim=1)
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


class GatedPixelCNN(Decoder):
    """A gated PixelCNN conditioned on a code; nothing in it is normalised over space or batch.

    Args:
        channels: feature channels C of each stack.
        layers: gated layers after the input layer.
        first_kernel: side of the input layer's kernel (odd).
        kernel: side of the gated layers' kernels (odd).
        dilations: dilation of each gated layer; None for 1 everywhere.
        bias: how the code enters a layer. ``location_invariant``: one linear map of the code per layer, the
            same at every pixel; right for a code that says what is in the image. ``location_dependent``: a small
            network turns the code into a map of ``map_channels`` channels, which enters through a 1x1 convolution;
            right for a code that says where things are.
        map_channels: channels of that map.
        condition: ``every_layer``: the code enters every gated layer, of which there has to be one.
            ``input_layer``: it is added to the input layer's output and nowhere else.
        sampler: ``incremental``: PyTorch's operations, for everything. ``compiled``: a loop compiled by numba, several
            times as fast, on CPUs, for Bernoulli and CategoricalLevels; it compiles once, some ten seconds. ``auto``:
            ``compiled`` where it is possible and enough is drawn at once, else ``incremental``.

    Raises:
        ConfigurationError: even or too small kernels, other numbers below 1, ``dilations`` of the wrong length; when
            built, a code that would enter 0 layers; when sampling, ``sampler="compiled"`` where that is not possible.
    """

    def __init__(
        self,
        channels: int = 32,
        layers: int = 7,
        first_kernel: int = 7,
        kernel: int = 3,
        dilations: Sequence[int] | None = None,
        bias: Bias = "location_invariant",
        map_channels: int = 8,
        condition: Condition = "every_layer",
        sampler: Sampler = "auto",
    ) -> None:
        super().__init__()
        for name, size in (("first_kernel", first_kernel), ("kernel", kernel)):
            if size % 2 == 0 or size < 3:
                raise ConfigurationError(f"{name}={size} is not usable: allowed are odd numbers >= 3")
        for name, value, least in (("channels", channels, 1), ("layers", layers, 0), ("map_channels", map_channels, 1)):
            if value < least:
                raise ConfigurationError(f"{name}={value} is not usable: allowed are numbers >= {least}")
        if dilations is not None and (len(dilations) != layers or min(dilations, default=1) < 1):
            raise ConfigurationError(
                f"dilations={list(dilations)} is not usable: allowed are {layers} numbers >= 1, one for each layer"
            )
        if bias not in ("location_invariant", "location_dependent"):
            raise ConfigurationError(
                f"bias={bias!r} is not usable: allowed are 'location_invariant' and 'location_dependent'"
            )
        if condition not in ("every_layer", "input_layer"):
            raise ConfigurationError(
                f"condition={condition!r} is not usable: allowed are 'every_layer' and 'input_layer'"
            )
        if sampler not in ("auto", "incremental", "compiled"):
            raise ConfigurationError(
                f"sampler={sampler!r} is not usable: allowed are 'auto', 'incremental' and 'compiled'"
            )
        self.condition: Condition = condition
        self.sampler: Sampler = sampler
        self.channels, self.num_layers, self.first_kernel, self.kernel = channels, layers, first_kernel, kernel
        self.dilations = tuple(dilations) if dilations is not None else (1,) * layers
        self.bias: Bias = bias
        self.map_channels = map_channels

    def build(self, image_shape: tuple[int, int, int], code_dim: int, likelihood: Likelihood) -> Self:
        colours, height, width = image_shape
        if code_dim and not self.num_layers and self.condition == "every_layer":
            raise ConfigurationError(
                "layers=0 with condition='every_layer' is not usable: no layer would use the code; allowed are layers "
                ">= 1, condition='input_layer' and a prior without a code"
            )
        self.image_shape, self.likelihood = image_shape, likelihood
        reach = self.first_kernel // 2
        self.first_vertical = nn.Conv2d(colours, self.channels, (reach, self.first_kernel))
        self.first_horizontal = nn.Conv2d(colours, self.channels, (1, reach))
        self.first_link = nn.Conv2d(self.channels, self.channels, 1, bias=False)
        if code_dim == 0:
            code_channels = 1
            self.code_map: nn.Module = EmptyCode()
        elif self.bias == "location_dependent":
            code_channels = self.map_channels
            self.code_map = nn.Sequential(
                nn.Linear(code_dim, 128),
                nn.ReLU(),
                nn.Linear(128, self.map_channels * height * width),
                nn.Unflatten(1, (self.map_channels, height, width)),
            )
        else:
            code_channels = code_dim
            self.code_map = nn.Sequential(nn.Unflatten(1, (code_dim, 1, 1)))
        at_input = self.condition == "input_layer"
        self.first_bias = nn.Conv2d(code_channels, 2 * self.channels, 1, bias=False) if at_input else None
        at_layers = 0 if at_input else code_channels
        self.layers = nn.ModuleList(GatedLayer(self.channels, self.kernel, d, at_layers) for d in self.dilations)
        groups = 1 if likelihood.channels_jointly else colours
        self.head = Head(self.channels, groups, likelihood.params_per_pixel(colours))
        # Convolutions are faster with the channels of a pixel side by side; what they return follows their weights.
        return self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x, code = 2 * x - 1, self.code_map(z)  # so that the zeros of the padding are no colour of the image's
        if self.layers and cpu_layer.usable(x):
            return self._forward_on_cpu(x, code)
        v, h = self._first(x, code)
        for layer in self.layers:
            v, h = layer(v, h, code)
        return self.head(h, x)

    @torch.compiler.disable  # compiled, the plain layers are slower than these
    def _forward_on_cpu(self, x: Tensor, code: Tensor) -> Tensor:
        at_once = cpu_layer.images_at_once(self.channels, *self.image_shape[1:])
        parts = max(1, -(-len(x) // at_once))
        params = []
        for x_part, code_part in zip(x.tensor_split(parts), code.tensor_split(parts), strict=True):
            h = cpu_layer.gated_layers(self.gated_layers(), *self._first(x_part, code_part), code_part)
            params.append(self.head(h, x_part))
        return torch.cat(params)

    def _first(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """``v`` and ``h`` of the input layer, ``[B, C, H, W]`` each, of images in [-1, 1]."""
        reach = self.first_kernel // 2
        # Shifted by one: row i of v reads rows i-reach .. i-1 of the image, column j of h reads columns j-reach .. j-1.
        v = self.first_vertical(F.pad(x, (reach, reach, reach, -1)))
        h = self.first_horizontal(F.pad(x, (reach, -1, 0, 0)))
        if self.first_bias is not None:
            bias_v, bias_h = self.first_biases(code)
            v, h = v + bias_v, h + bias_h
        return v, h.add_(self.first_link(v))

    def first_biases(self, code: Tensor) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """What the code adds to both stacks of the input layer, ``[B, C, H or 1, W or 1]`` each; or nothing."""
        if self.first_bias is None:
            return 0.0, 0.0
        bias_v, bias_h = self.first_bias(code).chunk(2, dim=1)
        return bias_v, bias_h

    def gated_layers(self) -> list[GatedLayer]:
        """The gated layers from the image upwards."""
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def receptive_field(self) -> frozenset[Offset]:
        reach = self.first_kernel // 2
        v = {(-a, b) for a in range(1, reach + 1) for b in range(-reach, reach + 1)}
        h = {(0, -b) for b in range(1, reach + 1)} | v
        reach = self.kernel // 2
        for d in self.dilations:
            taps = [(-a * d, b * d) for a in range(reach + 1) for b in range(-reach, reach + 1)]
            v = {(r + a, c + b) for r, c in v for a, b in taps}
            h = h | {(r, c - b * d) for r, c in h for b in range(reach + 1)} | v
        return frozenset(h)

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        obstacle = why_not(self, z)
        if self.sampler == "compiled" and obstacle is not None:
            raise ConfigurationError(f"sampler='compiled' is not usable: {obstacle}; allowed is 'incremental'")
        if self.sampler == "compiled" or (self.sampler == "auto" and obstacle is None and worth_compiling(self, z)):
            return sample_compiled(self, z, uniforms, temperature, known)
        return sample_incrementally(self, z, uniforms, temperature, known)
