"""The network of the gated PixelCNN: parameters of the pixels' distributions; how to draw from them is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelgan_lightning.decoders import cpu_layer
from pixelgan_lightning.decoders.base import Decoder, Offset
from pixelgan_lightning.decoders.gated_layers import EmptyCode, GatedLayer, Head
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Likelihood

Bias = Literal["location_invariant", "location_dependent"]
Condition = Literal["every_layer", "input_layer"]
Sampler = Literal["auto", "incremental", "compiled"]


class GatedNetwork(Decoder):
    """The network of :class:`~pixelgan_lightning.decoders.gated_pixelcnn.GatedPixelCNN`, which also draws images.

    Nothing in it is normalised over space or batch.
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
