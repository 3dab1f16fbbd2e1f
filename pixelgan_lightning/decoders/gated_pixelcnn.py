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

from torch import Tensor

from pixelgan_lightning.decoders.base import Known
from pixelgan_lightning.decoders.compiled import sample_compiled, why_not, worth_compiling
from pixelgan_lightning.decoders.gated_network import GatedNetwork
from pixelgan_lightning.decoders.incremental import sample_incrementally
from pixelgan_lightning.errors import ConfigurationError


class GatedPixelCNN(GatedNetwork):
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

    def sample(self, z: Tensor, uniforms: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        obstacle = why_not(self, z)
        if self.sampler == "compiled" and obstacle is not None:
            raise ConfigurationError(f"sampler='compiled' is not usable: {obstacle}; allowed is 'incremental'")
        if self.sampler == "compiled" or (self.sampler == "auto" and obstacle is None and worth_compiling(self, z)):
            return sample_compiled(self, z, uniforms, temperature, known)
        return sample_incrementally(self, z, uniforms, temperature, known)
