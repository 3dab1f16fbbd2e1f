"""The discriminator's half of the adversarial phase (PixelGAN autoencoders, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.phases.adversarial import AdversarialPhase
from pixelgan_lightning.phases.base import Encoded, TrainStep


class DiscriminatorPhase(AdversarialPhase):
    """The discriminator learns to tell samples of the prior (1) from codes (0).

    It minimises ``-(E_p(z)[log D(z)] + E_q(z)[log(1 - D(z))]) / 2``, the mean of both cross-entropies in nats.
    """

    moves = ("discriminator",)

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        codes = {seen: e.codes for seen, e in encoded.items()}
        samples, components = self._samples(model, codes, step)
        on_real = self.judge(model, samples, components, "real", step)
        on_fake = self.judge(model, codes, step.labels() if "labelled" in codes else None, "fake", step)
        if step.logged:
            step.numbers["discriminator_real"] = on_real.detach().sigmoid().mean()
            step.numbers["discriminator_fake"] = on_fake.detach().sigmoid().mean()
        return 0.5 * (F.softplus(-on_real).mean() + F.softplus(on_fake).mean())

    def _samples(
        self, model: Autoencoder, codes: Mapping[str, Tensor], step: TrainStep
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """As many samples of the prior as there are codes; beside labelled ones, with their components as labels."""
        prior, draws, z = model.prior, step.draws, codes["unlabelled"]
        samples, components = {"unlabelled": prior.keyed(draws, "prior", len(z)).to(z)}, None
        if "labelled" in codes:
            drawn, components = prior.keyed_with_components(draws, "labelled prior", len(codes["labelled"]))
            samples["labelled"] = drawn.to(z)
        return samples, components
