"""The semi-supervised classification phase (PixelGAN autoencoders, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.phases.base import Encoded, Phase, TrainStep


class ClassificationPhase(Phase):
    """The encoder minimises ``-E[log q(y|x)]``, the cross-entropy of the categorical code on labelled images, in nats.

    The unlabelled images go through the encoder beside them: batch statistics of the few labelled images alone would
    not be those of the other phases and of evaluation. Batches without labels give it nothing to do.
    """

    reads = ("logits",)
    prog_bar = True

    def build(self, model: Autoencoder) -> None:
        if self.alone:
            model.require_categories()

    def check(self, model: Autoencoder, trainer: pl.Trainer) -> None:
        super().check(model, trainer)
        data = getattr(trainer, "datamodule", None)
        if not getattr(data, "num_labelled", None):
            if self.alone and hasattr(data, "num_labelled"):
                raise ConfigurationError(
                    f"alone={self.alone} of {type(self).__name__} with num_labelled=None is not usable: allowed are "
                    "labels"
                )
            return
        model.require_categories()
        k = model.prior.num_categories
        classes = model.num_classes or getattr(data, "num_classes", None)
        if k is not None and classes is not None and k < classes:
            raise ConfigurationError(
                f"num_categories={k} is not usable with labels: allowed are numbers >= {classes}, the number of classes"
            )

    def has_work(self, model: Autoencoder, step: TrainStep) -> bool:
        return step.has("labelled") and model.prior.num_categories is not None

    def sees(self, model: Autoencoder, number: int) -> tuple[str, ...]:
        return ("unlabelled", "labelled")

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        return F.cross_entropy(full_precision(encoded["labelled"].logits), step.labels())
