"""The phases of a training step: what each of them minimises, and the random draws it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.agreement import class_order, pair_information
from pixelgan_lightning.averaging import change_weights
from pixelgan_lightning.discriminators import Discriminator
from pixelgan_lightning.inference import Inference
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.manual_optimization import ManualOptimization
from pixelgan_lightning.normalization import running_statistics, sum_over_processes
from pixelgan_lightning.random import RowDraws

Batch = dict[str, Any]
Part = tuple[str, Tensor, Tensor | None]  # the name of a part of the batch, its images or codes, their labels


class Phases(Inference, ManualOptimization):
    """One method for each phase; a subclass says which of them a step has."""

    num_classes: int | None
    discriminator: Discriminator
    neighbour_steps: int
    reconstruction_images: int | None
    label_aware: bool
    label_warmup_steps: int
    agreement_warmup_steps: int

    def reconstruction_phase(self, x: Tensor, draws: RowDraws) -> None:
        """Encoder and decoder minimise ``-log p(x|z)``, ``z ~ q(z|x)``."""
        with self._phase("reconstruction") as update, running_statistics(self.encoder, self.posterior):
            x = x[: self.reconstruction_images]
            update(-self.reconstruct(x, self._draw_code(x, draws, "reconstruction")).mean())

    def discriminator_phase(self, seen: Sequence[Part], draws: RowDraws) -> None:
        """The discriminator learns to tell samples of the prior (1) from codes (0)."""
        with self._phase("discriminator") as update:
            with torch.no_grad():
                fake = self._codes(seen, draws, "discriminator")
            update(self._discriminator_loss(fake, seen, draws))

    def generator_phase(self, seen: Sequence[Part], draws: RowDraws) -> None:
        """The encoder makes its codes look like samples of the prior (non-saturating loss)."""
        with self._phase("generator") as update:
            update(self._generator_loss(self._codes(seen, draws, "generator"), draws))

    def agreement_phase(self, x: Tensor, partners: Tensor, draws: RowDraws) -> None:
        """The encoder gives views of partners the same category, and makes use of all categories (Ji et al., 2019)."""
        # In the warm-up no other phase sees images: without this one, evaluation would have no running statistics.
        owned = (self.encoder, self.posterior) if self.global_step < self.agreement_warmup_steps else ()
        with self._phase("agreement") as update, running_statistics(*owned):
            views = torch.cat([self._view(x, draws, "agreement 1"), self._view(partners, draws, "agreement 2")])
            update(self._agreement_loss(self.posterior.logits(self.encoder(views))))

    def classification_phase(self, x: Tensor, labels: Tensor, unlabelled: Tensor, draws: RowDraws) -> None:
        """The encoder minimises the cross-entropy of the categorical code's logits on labelled images.

        The unlabelled images go through the encoder beside them: batch statistics of the few labelled images alone
        would not be those of the other phases and of evaluation.
        """
        owned = (self.encoder, self.posterior) if self.global_step < self.label_warmup_steps else ()
        with self._phase("classification") as update, running_statistics(*owned):
            views = [self._view(x, draws, "classification"), self._view(unlabelled, draws, "beside")]
            logits = self.posterior.logits(self.encoder(torch.cat(views)))
            update(F.cross_entropy(full_precision(logits[: len(x)]), labels))

    def _discriminator_loss(self, fake: Sequence[Part], seen: Sequence[Part], draws: RowDraws) -> Tensor:
        on_real = self._judge(self._prior_samples(seen, draws), draws, "real")
        on_fake = self._judge(fake, draws, "fake")
        self._log_train("discriminator_real", on_real.sigmoid().mean(), len(on_real))
        self._log_train("discriminator_fake", on_fake.sigmoid().mean(), len(on_fake))
        return 0.5 * (F.softplus(-on_real).mean() + F.softplus(on_fake).mean())

    def _generator_loss(self, fake: Sequence[Part], draws: RowDraws) -> Tensor:
        return F.softplus(-self._judge(fake, draws, "generator")).mean()

    def _agreement_loss(self, logits: Tensor) -> Tensor:
        """``logits``: those of the first views, then those of the second."""
        one, two = full_precision(logits).softmax(1).chunk(2)
        return -pair_information(one, two)

    @torch.no_grad()
    def _name_categories(self, x: Tensor, labels: Tensor, unlabelled: Tensor) -> None:
        """After the agreement warm-up: category ``k`` becomes the one that holds most of class ``k``, one to one."""
        q = self.posterior.logits(self.encoder(torch.cat([x, unlabelled])))
        q = full_precision(q[: len(x)]).softmax(1)
        counts = q.new_zeros(max(self.num_classes or 0, int(labels.max()) + 1), q.shape[1]).index_add_(0, labels, q)
        order = class_order(sum_over_processes(counts))
        change_weights(self.trainer, self, lambda: self.posterior.reorder(order))
        for optimizer in self.trainer.optimizers:  # what it remembers of these parameters belongs to the old order
            for p in self.posterior.parameters():
                optimizer.state.pop(p, None)

    def _partners(self, unlabelled: Batch) -> Tensor:
        """Whom the agreement phase pairs the images with: neighbours first, then each image with itself."""
        return unlabelled["neighbour" if self.global_step < self.neighbour_steps else "image"]

    def _draw_code(self, x: Tensor, draws: RowDraws, phase: str) -> Tensor:
        dim = self.posterior.noise_dim
        noise = draws.normal(f"posterior {phase}", len(x), dim).to(x) if dim else None
        return self.recognise(self._view(x, draws, phase), noise)

    def _view(self, x: Tensor, draws: RowDraws, phase: str) -> Tensor:
        if self.augmentation is None:
            return x
        return self.augmentation(x, draws.uniform(f"view {phase}", len(x), self.augmentation.num_draws).to(x))

    def _seen_by_discriminator(self, batch: Batch) -> list[Part]:
        """The images whose codes the discriminator sees; with ``label_aware`` also labelled ones, with labels."""
        x = batch["unlabelled"]["image"]
        if not self.label_aware:
            return [("", x, None)]
        assert self.num_classes is not None
        unknown = torch.full((len(x),), self.num_classes, device=x.device)
        return [("", x, unknown), ("labelled ", batch["labelled"]["image"], batch["labelled"]["label"])]

    def _codes(self, seen: Sequence[Part], draws: RowDraws, phase: str) -> list[Part]:
        return [(part, self._draw_code(x, draws, part + phase), labels) for part, x, labels in seen]

    def _prior_samples(self, seen: Sequence[Part], draws: RowDraws) -> list[Part]:
        """As many samples of the prior as there are images; beside labelled images, with their components as labels."""
        samples: list[Part] = []
        for part, x, labels in seen:
            if part:
                codes, components = self.prior.keyed_with_components(draws, f"{part}prior", len(x))
                samples.append((part, codes.to(x), components))
            else:
                samples.append((part, self.prior.keyed(draws, "prior", len(x)).to(x), labels))
        return samples

    def _judge(self, codes: Sequence[Part], draws: RowDraws, purpose: str) -> Tensor:
        """The discriminator's logits on blurred codes, which come with their labels where it is label-aware."""
        inputs = []
        for part, z, labels in codes:
            scale = self.discriminator.code_noise
            blurred = z + scale * draws.normal(f"blur {part}{purpose}", *z.shape).to(z) if scale else z
            if labels is not None:
                assert self.num_classes is not None
                blurred = torch.cat([blurred, F.one_hot(labels, self.num_classes + 1).to(z)], 1)
            inputs.append(blurred)
        return full_precision(self.discriminator(torch.cat(inputs)))
