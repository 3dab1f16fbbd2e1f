"""What the two halves of the adversarial phase have in common: which codes the discriminator sees, and how."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.phases.base import Phase, TrainStep


class AdversarialPhase(Phase):
    """A phase that shows codes to the discriminator; there is none without a code.

    A label-aware discriminator also sees labelled images, with their labels; the others have the label "unknown". Each
    class then owns a component of the prior (Adversarial Autoencoders, section 2.3).
    """

    def has_work(self, model: Autoencoder, step: TrainStep) -> bool:
        return model.prior.code_dim > 0

    def sees(self, model: Autoencoder, number: int) -> tuple[str, ...]:
        return ("unlabelled", "labelled") if model.discriminator.label_aware else ("unlabelled",)

    def judge(
        self, model: Autoencoder, codes: Mapping[str, Tensor], labels: Tensor | None, purpose: str, step: TrainStep
    ) -> Tensor:
        """The discriminator's logits ``[B]`` of "this code is a sample of the prior", for all codes together.

        Args:
            model: with the discriminator.
            codes: by the name of the images, ``[B, code_dim]`` each.
            labels: of the codes called ``labelled``, ``[L]``.
            purpose: of the noise that blurs the codes.
            step: with the draws.
        """
        inputs = []
        for seen, z in codes.items():
            x, scale = z, model.discriminator.code_noise
            if scale:
                key = f"blur {purpose}" if seen == "unlabelled" else f"blur {seen} {purpose}"
                x = z + scale * step.draws.normal(key, *z.shape).to(z)
            if model.discriminator.label_aware:
                unknown = torch.full((len(z),), model.label_dim - 1, device=z.device)
                known = labels if seen == "labelled" and labels is not None else unknown
                x = torch.cat([x, F.one_hot(known, model.label_dim).to(z)], 1)
            inputs.append(x)
        return full_precision(model.discriminator(torch.cat(inputs)))
