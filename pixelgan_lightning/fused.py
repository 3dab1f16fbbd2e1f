"""All phases of a training step at the same parameters, with one pass through the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.normalization import running_statistics
from pixelgan_lightning.phases import Batch, Phases
from pixelgan_lightning.random import RowDraws

SHARE_THE_ENCODER = {"generator": "generating", "agreement": "agreement", "classification": "classification"}


class FusedStep(Phases):
    """A step with the losses of the phases, but with one pass and one backward pass through the encoder.

    What differs from the sequential phases:

    - Every phase sees the parameters that the step began with.
    - One view of each image, and one draw of its code, serves the reconstruction, the discriminator and the generator;
      the agreement adds a second view, the labels add the labelled images. All of them are one batch of the encoder:
      its batch statistics, running ones too, are those of everything together.
    - The encoder has one optimizer, that of the reconstruction, with its ``betas``, ``weight_decay`` and ``clip_norm``
      (one norm for decoder and encoder). Adam for each phase would need the gradient of each phase, and so a backward
      pass for each. It gets the mean of the phases' gradients, weighted by their learning rates, and its own rate is
      the sum of these rates: ``sum_i lr_i * sum_i (lr_i / sum_j lr_j) g_i = sum_i lr_i g_i``. Plain gradient descent
      would move the encoder just as far as phase by phase; a step of a single phase is that phase's step. With
      ``encoder_lr`` as the rate instead, Adam, which does not see the scale of a gradient, would creep wherever
      another phase is the one that drives the encoder.
    - Decoder and discriminator get the gradients and the optimizers they have in the phases.
    """

    def fused_step(self, batch: Batch, phases: Sequence[str], draws: RowDraws) -> None:
        """One batch.

        Args:
            batch: as in ``training_step``.
            phases: which of the phases this step has.
            draws: of this step.
        """
        x = batch["unlabelled"]["image"]
        seen = self._seen_by_discriminator(batch) if "discriminator" in phases else []
        parts = {"": x}
        if "agreement" in phases:
            parts["second "] = self._partners(batch["unlabelled"])
        if "classification" in phases or len(seen) > 1:
            parts["labelled "] = batch["labelled"]["image"]
        weights = self._share_the_encoder(phases)
        with self._moving("reconstruction") as move:  # the discriminator judges here, but gets no gradient
            z, logits = self._one_pass(parts, draws, "agreement" in phases or "classification" in phases)
            fake = [(part, z[part], labels) for part, _, labels in seen]
            losses: dict[str, Tensor] = {}
            if "reconstruction" in phases:
                n = self.reconstruction_images
                code = _scale_gradient(z[""][:n], weights["reconstruction"])
                losses["reconstruction"] = -self.reconstruct(x[:n], code).mean()
            if "generator" in phases:
                losses["generator"] = self._generator_loss(fake, draws)
            if "agreement" in phases:
                losses["agreement"] = self._agreement_loss(torch.cat([logits[""], logits["second "]]))
            if "classification" in phases:
                of_labelled = full_precision(logits["labelled "])
                losses["classification"] = F.cross_entropy(of_labelled, batch["labelled"]["label"])
            # The decoder gets its gradient whole: its weight is in the gradient of the code.
            weights["reconstruction"] = 1.0
            terms = [weights[phase] * self._reported(phase, loss) for phase, loss in losses.items()]
            move(sum(terms[1:], terms[0]))
        if "discriminator" in phases:  # its parameters are still those that the generator's loss has seen
            with self._phase("discriminator") as update:
                codes = [(part, code.detach(), labels) for part, code, labels in fake]
                update(self._discriminator_loss(codes, seen, draws))

    def _one_pass(
        self, parts: dict[str, Tensor], draws: RowDraws, categories: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Codes of all parts of a batch, and with ``categories`` their logits, from one pass through the encoder."""
        sizes = [len(x) for x in parts.values()]
        views = torch.cat([self._view(x, draws, f"{part}fused") for part, x in parts.items()])
        noise, dim = None, self.posterior.noise_dim
        if dim:
            noise = torch.cat([draws.normal(f"posterior {part}fused", len(x), dim) for part, x in parts.items()])
            noise = noise.to(views)
        if self.prior.code_dim == 0:
            return {"": self.recognise(views)}, {}
        with running_statistics(self.encoder, self.posterior):
            features = self.encoder(views)
            z = self.posterior(features, noise)
        logits = self.posterior.logits(features).split(sizes) if categories else ()
        return dict(zip(parts, z.split(sizes), strict=True)), dict(zip(parts, logits, strict=False))

    def _share_the_encoder(self, phases: Sequence[str]) -> dict[str, float]:
        """Set the learning rate of the encoder for this step; the weight of each phase's gradient."""
        optimizers = self._optimizers_by_phase()
        # The encoder is the last group of every optimizer but the discriminator's.
        rates = {p: optimizers[p].param_groups[-1]["lr"] for p in phases if p != "discriminator"}
        total = sum(rates.values())
        optimizers["reconstruction"].param_groups[-1]["lr"] = total
        return {phase: rate / total if total else 0.0 for phase, rate in rates.items()}

    def _require_fusable(self) -> None:
        for phase, argument in SHARE_THE_ENCODER.items():
            for name, none in (("clip_norm", None), ("weight_decay", 0.0)):
                value = getattr(self.phase_optimizers[phase], name)
                if value != none:
                    raise ConfigurationError(
                        f"{argument}.{name}={value} with step='fused' is not usable: allowed is "
                        f"{'null' if none is None else none}, the encoder has the reconstruction's optimizer"
                    )


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor`` on the way back."""
    if x.requires_grad:
        x = x.view_as(x)
        x.register_hook(lambda gradient: factor * gradient)
    return x


__all__ = ["FusedStep"]
