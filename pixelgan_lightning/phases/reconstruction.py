"""The reconstruction phase (PixelGAN autoencoders, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases.base import Encoded, Phase, TrainStep
from pixelgan_lightning.phases.optimization import LARGEST


class ReconstructionPhase(Phase):
    """Encoder and decoder minimise ``-E_x E_q(z|x)[log p(x|z)]``, in nats per image.

    Args:
        encoder_lr: learning rate of the encoder, if it is not that of the decoder.
        images: how many images of the global batch are decoded, spread evenly over it: the decoder is the expensive
            part of a step. In sequential steps the encoder's running statistics, which evaluation uses, follow these
            images. None: all.
        settings: see :class:`~pixelgan_lightning.phases.base.Phase`.

    Raises:
        ConfigurationError: a value out of range.
    """

    moves = ("encoder", "posterior", "decoder")
    prog_bar = True

    def __init__(self, encoder_lr: float | None = None, images: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if encoder_lr is not None and not 0 < encoder_lr <= LARGEST:
            raise ConfigurationError(
                f"encoder_lr={encoder_lr} is not usable: allowed are values > 0 and <= {LARGEST:g}, and null"
            )
        if images is not None and images < 1:
            raise ConfigurationError(f"images={images} is not usable: allowed are numbers >= 1 and null")
        self.encoder_lr, self.images = encoder_lr, images

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        seen = encoded["unlabelled"]
        return -model.reconstruct(seen.images, seen.codes).mean()
