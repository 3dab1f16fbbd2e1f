"""The PixelGAN autoencoder (Makhzani and Frey, NIPS 2017, arXiv:1706.00531) as a LightningModule."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from pixelgan_lightning import pretrained
from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.component import Description, construct
from pixelgan_lightning.contracts import require_evaluation_batch, require_training_batch
from pixelgan_lightning.decoders import Decoder
from pixelgan_lightning.discriminators import Discriminator
from pixelgan_lightning.encoders import Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.weights import build, read_checkpoint, read_folder
from pixelgan_lightning.likelihoods import Likelihood
from pixelgan_lightning.numerics.cuda_graphs import CUDAGraphs
from pixelgan_lightning.numerics.inference import inference
from pixelgan_lightning.numerics.precision import require_usable_precision
from pixelgan_lightning.phases import (
    ClassificationPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    Phase,
    ReconstructionPhase,
    TrainStep,
)
from pixelgan_lightning.phases.base import Batch
from pixelgan_lightning.posteriors import Posterior
from pixelgan_lightning.priors import Prior
from pixelgan_lightning.random import RowDraws, keyed_seed
from pixelgan_lightning.training.averaging import change_weights, require_own_average
from pixelgan_lightning.training.captured import Captured, say_why_not, why_not
from pixelgan_lightning.training.gradients import Gradients
from pixelgan_lightning.training.resume import Continuation, attached_trainer, begin_next_epoch
from pixelgan_lightning.training.steps import STEPS, Sequential
from pixelgan_lightning.training.trial import require_contracts

THE_PAPERS: dict[str, type[Phase]] = {
    "reconstruction": ReconstructionPhase,
    "discriminator": DiscriminatorPhase,
    "generator": GeneratorPhase,
    "classification": ClassificationPhase,
}
"""The phases of the paper, by name, in their order; the last needs labels."""


class PixelGAN(Autoencoder, pl.LightningModule):
    """An encoder, a conditional PixelCNN as decoder, a discriminator that makes all codes together look like a prior.

    It minimises ``-E_x E_q(z|x)[log p(x|z)] + KL(q(z)||p(z))``: the evidence lower bound without its mutual
    information term, the marginal KL replaced by a discriminator (section 2 of the paper).

    What is here is the training; what a trained model does is in :class:`~pixelgan_lightning.autoencoder.Autoencoder`.

    Args:
        image_shape: ``(C, H, W)``. The command line takes it from the data.
        num_classes: number of classes of the data, if known.
        prior: ``p(z)``. Default ``Categorical(10)``.
        posterior: ``q(z|x)``. Default: :func:`~pixelgan_lightning.posteriors.default_posterior`.
        encoder: default ``ConvEncoder()``.
        decoder: default ``GatedPixelCNN()``.
        likelihood: default ``Bernoulli()``.
        discriminator: default ``MLPDiscriminator()``.
        augmentation: random views that the encoder sees in training; the decoder's target is the image itself. None:
            the images, as in the paper.
        phases: by name, the losses of a step in the order in which they run (:mod:`pixelgan_lightning.phases`).
            Default: those of the paper.
        step: ``sequential``: the phases one after the other, as in the paper. ``fused``: with one pass through the
            encoder and one optimizer for it, which is faster (:class:`~pixelgan_lightning.training.steps.Fused` says
            what differs).
        seed: key of all random draws of the training loop; the command line takes it from ``seed_everything``.

    Attributes:
        cuda_graphs: whether a training on one GPU runs its steps as CUDA graphs
            (:class:`~pixelgan_lightning.training.captured.Captured`); False.

    Raises:
        ConfigurationError: parts and phases that do not fit together, or values out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int | None = None,
        prior: Prior | Description | None = None,
        posterior: Posterior | Description | None = None,
        encoder: Encoder | Description | None = None,
        decoder: Decoder | Description | None = None,
        likelihood: Likelihood | Description | None = None,
        discriminator: Discriminator | Description | None = None,
        augmentation: Augmentation | Description | None = None,
        phases: Mapping[str, Phase | Description] | None = None,
        step: Literal["sequential", "fused"] = "sequential",
        seed: int = 0,
    ) -> None:
        super().__init__(
            image_shape, num_classes, prior, posterior, encoder, decoder, likelihood, discriminator, augmentation, seed
        )
        self.automatic_optimization = False
        if step not in STEPS:
            raise ConfigurationError(f"step={step!r} is not usable: allowed are {', '.join(map(repr, STEPS))}")
        given = {name: phase() for name, phase in THE_PAPERS.items()} if phases is None else phases
        # Registered, so that parameters of a phase's own are the model's.
        self.phases = cast("Mapping[str, Phase]", nn.ModuleDict(_construct_phases(given)))
        self.save_hyperparameters(
            {
                "image_shape": list(self.image_shape),
                "num_classes": num_classes,
                "augmentation": None,
                **{name: part.describe() for name, part in self.parts().items()},
                "phases": {name: phase.describe() for name, phase in self.phases.items()},
                "step": step,
                "seed": seed,
            }
        )
        # The names that lightning-bolts knows; they follow from the others and are not stored.
        self.hparams.update(latent_dim=self.prior.code_dim, img_dim=list(self.image_shape))
        self.build_parts()
        for phase in self.phases.values():
            phase.build(self)
        require_contracts(self)
        self.continuation = Continuation(self)
        self.gradients = Gradients(self)
        self.step = STEPS[step](self, self.phases, self.gradients)
        self.cuda_graphs = False

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **arguments: Any
    ) -> Self:
        """A trained model from a checkpoint, in training mode.

        Code in the file does not run (``weights_only=True``), and nothing is imported for it: a model with parts from
        elsewhere needs their module imported before.

        Args:
            checkpoint_path: a file of this machine.
            map_location: the device.
            arguments: of the model, in place of those in the file.

        Raises:
            ConfigurationError: the file is no checkpoint of a PixelGAN, or names classes that are not to be trusted.
        """
        if not arguments.pop("weights_only", True):
            raise ConfigurationError("weights_only=False is not usable: allowed is True, code is not run")
        stored = read_checkpoint(checkpoint_path, "checkpoint_path")
        stored = replace(stored, description={**stored.description, **arguments})
        return build(cls, stored, f"checkpoint_path={checkpoint_path}").to(map_location).train()

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """A trained model, in evaluation mode, that ships with the package or lies in an exported folder.

        Args:
            name: one of :func:`pixelgan_lightning.pretrained.names`, or the path of a folder made by
                ``pixelgan export``.

        Raises:
            ConfigurationError: there is no such model, or its files do not fit together.
        """
        return build(cls, read_folder(pretrained.folder(name)), f"pretrained={name}")

    # ------------------------------------------------------------------------------------------------- the training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run the phases of this step; :mod:`pixelgan_lightning.phases` has their table."""
        number, rank = self.global_step, self.global_rank
        # Nothing here draws from the global stream; a component from elsewhere may (dropout), and is to be resumable.
        seed_global_stream(keyed_seed(self.seed, number, "global stream", rank), self.device)
        draws = RowDraws(self.seed, number, rank=rank, world_size=self.trainer.world_size, device=self.device)
        step = TrainStep(batch, number, draws, logged=self._is_logged(number))
        for phase in self.phases.values():
            phase.begin(self, step)
        optimizers = self.optimizers(use_pl_optimizer=False)
        sees = {name: self.phases[name].sees(self, number) for name in self._active(step)}
        self._executor.run(sees, step, optimizers if isinstance(optimizers, list) else [optimizers], self._total_steps)
        if step.logged:
            for name, value in step.numbers.items():
                self.log(f"train/{name}", value, prog_bar=name in self.phases and self.phases[name].prog_bar)
            self.gradients.require_finite()
        self.gradients.count_step()

    def _active(self, step: TrainStep) -> list[str]:
        """The phases that a step has, in order."""
        working = [name for name, phase in self.phases.items() if phase.has_work(self, step)]
        return [name for name in working if step.number < self.phases[name].alone] or working

    def _is_logged(self, number: int) -> bool:
        """As Lightning decides; and the last batch of an epoch, so that callbacks that watch a loss find a new one."""
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return interval > 0 and ((number + 1) % interval == 0 or self.trainer.should_stop or self.trainer.is_last_batch)

    def configure_optimizers(self) -> list[Optimizer]:
        return list(self.step.optimizers().values())

    def reorder_categories(self, order: Tensor) -> None:
        trainer = attached_trainer(self)
        if trainer is None:
            super().reorder_categories(order)
            return
        change_weights(trainer, self, lambda: super(PixelGAN, self).reorder_categories(order))
        for optimizer in trainer.optimizers:  # what it remembers of these parameters belongs to the old order
            for p in self.posterior.parameters():
                optimizer.state.pop(p, None)

    def setup(self, stage: str) -> None:
        require_usable_precision(self.trainer.precision)
        require_own_average(self.trainer)

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        theirs = getattr(data, "num_classes", None)
        if None not in (theirs, self.num_classes) and theirs != self.num_classes:
            raise ConfigurationError(
                f"num_classes={self.num_classes} does not fit the data, which have {theirs} classes: allowed are "
                f"{theirs} and null"
            )
        levels = getattr(data, "levels", self.likelihood.levels)
        if levels != self.likelihood.levels:
            raise ConfigurationError(
                f"likelihood={type(self.likelihood).__name__} with levels={self.likelihood.levels} does not fit the "
                f"data, whose images have levels={levels}: allowed are likelihoods with as many (Bernoulli has 2, "
                "CategoricalLevels any number) or, with binarization=threshold, data with 2"
            )
        labels = getattr(data, "num_labelled", None)
        if labels and not any("labelled" in phase.sees(self, 0) for phase in self.phases.values()):
            raise ConfigurationError(
                f"num_labelled={labels} is not usable, no phase sees labels: allowed are null, a ClassificationPhase "
                "among the phases and a label-aware discriminator"
            )
        for phase in self.phases.values():
            phase.check(self, self.trainer)

    def on_train_start(self) -> None:
        begin_next_epoch(self.trainer)
        self.gradients.forget()
        self._total_steps = self.trainer.estimated_stepping_batches
        for name, phase in self.phases.items():
            if phase.optimizer.needs_an_end and math.isinf(self._total_steps):
                raise ConfigurationError(
                    f"schedule={phase.optimizer.schedule!r} of the {name} phase is not usable without an end: allowed "
                    "are max_epochs or max_steps, decay_steps, and 'constant'"
                )
        self._executor = self._choose_executor()

    def _choose_executor(self) -> Sequential | Captured:
        """What runs the steps of a training."""
        reason = why_not(self) if self.cuda_graphs else None
        if reason is not None:
            say_why_not(reason)
        return Captured(self.step, CUDAGraphs()) if self.cuda_graphs and reason is None else self.step

    def on_train_end(self) -> None:
        self._executor = self.step  # graphs hold memory

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready > 1:  # not the first of a run or an epoch
            return
        require_training_batch(batch)
        self._check(batch["unlabelled"]["image"])
        step = TrainStep(batch, self.global_step, RowDraws(self.seed))
        for name, phase in self.phases.items():
            works = phase.has_work(self, step)
            missing = [seen for seen in phase.sees(self, step.number) if not step.has(seen)]
            if missing and (works or step.number < phase.alone):
                raise ConfigurationError(
                    f"phases.{name} is not usable with batches without {missing[0]} images: allowed are batches with "
                    '{"labelled": {"image": ..., "label": ...}}, {"unlabelled": {"neighbour": ...}} for neighbours'
                )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.continuation.steps = self.global_step

    def on_train_epoch_end(self) -> None:
        self.gradients.require_finite()

    def on_validation_start(self) -> None:
        self.gradients.require_finite()

    @property
    def global_step(self) -> int:
        """Batches trained on: outside ``fit`` those behind the weights."""
        trainer = attached_trainer(self)
        counted = int(super().global_step)
        within = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        return counted if within else self.continuation.steps or counted

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.gradients.require_finite()
        self.continuation.write(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.continuation.read(checkpoint)

    # ----------------------------------------------------------------------------------------------- the evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Batch, batch_idx: int, split: str) -> None:
        """Log the reconstruction, ``-E[log p(x|z)]`` in nats per image given the code: no likelihood of the image."""
        if batch_idx == 0:
            require_evaluation_batch(batch)
            self._check(batch["image"])
        x = batch["image"]
        z = self.recognise(x)
        # Lightning averages the number of images over processes, and would cut an integer: 13 images on two are 6 each.
        number: Any = float(len(x))
        log = functools.partial(self.log, on_epoch=True, sync_dist=True, batch_size=number)
        given_code = self.reconstruct(x, z)
        log(f"{split}/reconstruction", -given_code.mean(), prog_bar=True)
        if self.prior.num_categories is not None:
            category = z[:, self.prior.category_slice or slice(None)]
            one_hot = F.one_hot(category.argmax(1), self.prior.num_categories).to(z)
            if not torch.equal(one_hot, category):  # a straight-through posterior gives one-hot codes by itself
                given_code = self.reconstruct(x, self.with_category(z, one_hot))
            log(f"{split}/reconstruction_one_hot", -given_code.mean())

    @inference
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Index, label and code of every image; with categories also ``probabilities``, ``q(y|x)``, ``[B, K]``."""
        if batch_idx == 0:
            require_evaluation_batch(batch, "label", "index")
        x = batch["image"]
        row = {"index": batch["index"], "label": batch["label"]}
        if self.prior.num_categories is None:
            return {**row, "code": self.encode(x)}
        features = self.features(x)
        row["code"] = self.posterior(features)  # where it is one-hot it does not tell the probability
        row["probabilities"] = self.posterior.logits(features).softmax(1)
        return row

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._log_step()

    def on_test_epoch_end(self) -> None:
        self._log_step()

    def _log_step(self) -> None:
        """``step`` is what Lightning's loggers put the numbers of an evaluation at, otherwise 0."""
        self.log("step", float(self.global_step), sync_dist=True)


def _construct_phases(given: Mapping[str, Phase | Description]) -> dict[str, Phase]:
    """Fresh phases by name.

    Raises:
        ConfigurationError: no phases, a name that is no word, or a phase that cannot be made.
    """
    if not given:
        raise ConfigurationError("phases={} is not usable: allowed is one phase or more, by name")
    phases: dict[str, Phase] = {}
    for name, phase in given.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ConfigurationError(f"phases.{name} is not usable: allowed are names of letters, digits and _")
        try:
            phases[name] = construct(phase, Phase)
        except ConfigurationError as error:
            raise ConfigurationError(f"phases.{name}: {error}") from None
    alone = [name for name, phase in phases.items() if phase.alone]
    if len(alone) > 1:
        raise ConfigurationError(f"alone > 0 of {' and '.join(alone)} is not usable: allowed is one phase at a time")
    for name, phase in phases.items():
        phase.first_step = max((other.alone for key, other in phases.items() if key != name), default=0)
    return phases


def seed_global_stream(seed: int, device: torch.device) -> None:
    """``torch.manual_seed`` for the host and one device, at a hundredth of its time."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


__all__ = ["THE_PAPERS", "PixelGAN"]
