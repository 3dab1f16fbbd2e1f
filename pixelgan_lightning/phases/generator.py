"""The generator's half of the adversarial phase (PixelGAN autoencoders, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.phases.adversarial import AdversarialPhase
from pixelgan_lightning.phases.base import Encoded, TrainStep


class GeneratorPhase(AdversarialPhase):
    """The encoder, which generates codes, makes them look like samples of the prior.

    It minimises ``-E_q(z)[log D(z)]``, the non-saturating loss (Goodfellow et al., 2014), in nats.
    """

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        codes = {seen: e.codes for seen, e in encoded.items()}
        labels = step.labels() if "labelled" in codes else None
        return F.softplus(-self.judge(model, codes, labels, "generator", step)).mean()
