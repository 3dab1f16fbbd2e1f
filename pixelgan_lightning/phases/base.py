"""The contract of a training phase: a loss, and the parameters that it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import Parameter

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.component import Component, Description, hands_on
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases.optimization import PhaseOptimizer
from pixelgan_lightning.random import RowDraws

Batch = dict[str, Any]

IMAGES = {
    "unlabelled": ("unlabelled", "image"),
    "second": ("unlabelled", "image"),
    "neighbour": ("unlabelled", "neighbour"),
    "labelled": ("labelled", "image"),
}
"""By the name of what a phase sees, where a batch has the images; ``second`` is a second view of the unlabelled."""


@dataclass
class TrainStep:
    """One step of a training.

    Attributes:
        batch: what the data hand out, ``{"unlabelled": {"image": [B, C, H, W]}}``, maybe also with ``neighbour`` of the
            same shape in it, and with ``{"labelled": {"image": [L, C, H, W], "label": [L]}}``.
        number: batches trained on before.
        draws: the random draws of this step.
        logged: whether its numbers are logged; what only the logs need is not computed otherwise.
        numbers: what is logged beside the losses, by name; phases add to it.
    """

    batch: Batch
    number: int
    draws: RowDraws
    logged: bool = False
    numbers: dict[str, Tensor] = field(default_factory=dict)

    def has(self, seen: str) -> bool:
        """Whether the batch has these images, one of :data:`IMAGES`."""
        part, name = IMAGES[seen]
        return name in self.batch.get(part, ())

    def images(self, seen: str) -> Tensor:
        """Images ``[B, C, H, W]``."""
        part, name = IMAGES[seen]
        images: Tensor = self.batch[part][name]
        return images

    def labels(self) -> Tensor:
        """Labels ``[L]`` of the labelled images."""
        labels: Tensor = self.batch["labelled"]["label"]
        return labels


class Encoded:
    """Images and what a pass through the encoder made of views of them.

    Attributes:
        images: ``[B, C, H, W]``, the images themselves.
        features: ``[B, encoder.num_features]``; of a model without a code ``[B, 0]``.
        codes: ``[B, code_dim]``, drawn from ``q(z|x)``; there if the phase ``reads`` them.
        logits: unnormalised ``log q(y|x)``, ``[B, K]``; there if the phase ``reads`` them.
    """

    images: Tensor
    features: Tensor
    codes: Tensor
    logits: Tensor

    def __init__(self, images: Tensor, **outputs: Tensor) -> None:
        self.images, self.outputs = images, outputs
        vars(self).update(outputs)


class Phase(Component):
    """One loss of a training step, with an optimizer of its own for the parameters that it moves.

    A phase of your own needs :meth:`loss`; everything else has a default. Name it by ``class_path`` in YAML, in the
    mapping ``model.phases``; no registration is needed. It may have parameters, made in :meth:`build`: it moves them
    too.

    Example:
        >>> class Confidence(Phase):
        ...     reads = ("logits",)
        ...     def loss(self, model, encoded, step):
        ...         log_q = encoded["unlabelled"].logits.log_softmax(1)
        ...         return -(log_q.exp() * log_q).sum(1).mean()
        >>> Confidence(lr=1e-4).optimizer.lr
        0.0001

    Args:
        alone: batches at the start in which no other phase runs; the schedules of the others begin after them.
        encoder_delay: batches at its start in which the phase leaves encoder and posterior as they are, while its other
            parameters learn; their schedule begins after them.
        optimizer: arguments of :class:`~pixelgan_lightning.phases.optimization.PhaseOptimizer`.

    Raises:
        ConfigurationError: a value out of range, or an argument that nothing knows.
    """

    moves: tuple[str, ...] = ("encoder", "posterior")
    """Parts of the model whose parameters the phase moves."""

    reads: tuple[str, ...] = ("codes",)
    """What the phase needs beside features: ``codes``, ``logits`` or both; see :class:`Encoded`."""

    encoder_lr: float | None = None
    """Learning rate of encoder and posterior, if it is not that of the other parameters that the phase moves."""

    images: int | None = None
    """How many images of the global batch the phase sees; None: all."""

    finds_categories: bool = False
    """Whether labels put the categories that it has found ``alone`` into the order of the classes, at its end."""

    prog_bar: bool = False
    """Whether its loss is shown in the progress bar."""

    first_step: int = 0
    """The step in which it first runs; the model sets it where another phase is ``alone`` before."""

    def __init__(self, alone: int = 0, encoder_delay: int = 0, **optimizer: Any) -> None:
        super().__init__()
        known = [setting.name for setting in fields(PhaseOptimizer)]
        for name, value in optimizer.items():
            if name not in known:
                raise ConfigurationError(
                    f"{name}={value} of {type(self).__name__} is not usable: allowed are alone, encoder_delay, "
                    f"{', '.join(known)}"
                )
        for name, batches in (("alone", alone), ("encoder_delay", encoder_delay)):
            if batches < 0:
                raise ConfigurationError(
                    f"{name}={batches} of {type(self).__name__} is not usable: allowed are numbers >= 0"
                )
        if encoder_delay and not {"encoder", "posterior"} & {*self.moves}:
            raise ConfigurationError(
                f"encoder_delay={encoder_delay} of {type(self).__name__} is not usable: allowed is 0, it moves neither "
                "encoder nor posterior"
            )
        self.alone, self.encoder_delay = alone, encoder_delay
        try:
            self.optimizer = PhaseOptimizer(**optimizer)
        except ConfigurationError as error:
            raise ConfigurationError(f"{type(self).__name__}.{error}") from None

    def describe(self) -> Description:
        description = super().describe()
        if hands_on(type(self), Phase):  # or what the class says of the optimizer is not for others to say
            settings = {s.name: getattr(self.optimizer, s.name) for s in fields(PhaseOptimizer)}
            settings["betas"] = list(settings["betas"])
            description["init_args"] |= settings
        return description

    def build(self, model: Autoencoder) -> None:
        """Refuse a model that the phase cannot train, or create parameters of the phase.

        Args:
            model: with its parts built.

        Raises:
            ConfigurationError: the phase does not go with the model.
        """

    def check(self, model: Autoencoder, trainer: pl.Trainer) -> None:
        """Refuse data or a trainer that the phase cannot work with, when a training begins.

        Raises:
            ConfigurationError: the phase does not go with them.
        """
        if self.images is not None and self.images % trainer.world_size:
            raise ConfigurationError(
                f"images={self.images} of {type(self).__name__} on {trainer.world_size} processes is not usable: "
                f"allowed are multiples of {trainer.world_size}"
            )

    def begin(self, model: Autoencoder, step: TrainStep) -> None:
        """Called before any phase of a step runs."""

    def has_work(self, model: Autoencoder, step: TrainStep) -> bool:
        """Whether the phase runs in this step; it does not where, for example, a batch has no labels."""
        return True

    def sees(self, model: Autoencoder, number: int) -> tuple[str, ...]:
        """Which images go through the encoder for it at step ``number``, names in :data:`IMAGES`."""
        return ("unlabelled",)

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        """What the phase minimises: a mean over the images of this process.

        Args:
            model: the parts, of which those that the phase does not move have no gradients.
            encoded: by name, the images that it :meth:`sees`.
            step: the batch and its draws.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define loss(model, encoded, step)")

    def recognition(self, model: Autoencoder) -> list[Parameter]:
        """Parameters of encoder and posterior, if the phase moves them."""
        return [p for name in ("encoder", "posterior") if name in self.moves for p in getattr(model, name).parameters()]

    def others(self, model: Autoencoder) -> list[Parameter]:
        """The other parameters that the phase moves, its own among them."""
        parts = [getattr(model, name) for name in self.moves if name not in ("encoder", "posterior")]
        return [p for part in (*parts, self) for p in part.parameters()]

    def learning_rates(self, step: int, total_steps: float) -> tuple[float, float]:
        """At ``step`` of ``total_steps`` batches: of encoder and posterior, and of everything else.

        The schedule counts from :attr:`first_step`, that of encoder and posterior from ``encoder_delay`` later.
        """
        lr, starts = self.optimizer.lr, self.first_step + self.encoder_delay
        encoder_lr = lr if self.encoder_lr is None else self.encoder_lr
        moved = self.optimizer.factor(step - starts, total_steps - starts) if step >= starts else 0.0
        return encoder_lr * moved, lr * self.optimizer.factor(step - self.first_step, total_steps - self.first_step)

    def selected(self, x: Tensor, step: TrainStep) -> Tensor:
        """The rows ``[b, ...]`` of ``x`` ``[B, ...]`` that the phase sees: spread evenly over the global batch."""
        if self.images is None:
            return x
        number = self.images // step.draws.world_size
        return x if number >= len(x) else x[torch.arange(number, device=x.device) * len(x) // number]
