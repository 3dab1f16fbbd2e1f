"""Two ways to run the phases of a training step: one after the other, or with one pass through the encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.numerics.normalization import running_statistics
from pixelgan_lightning.phases import Encoded, Phase, TrainStep
from pixelgan_lightning.training.gradients import Gradients, frozen

Sees = Mapping[str, tuple[str, ...]]
"""By phase of a step, in order, which images go through the encoder for it."""


class Sequential:
    """The phases one after the other, as in the paper: each sees what the one before has written.

    Each has a pass through the encoder and an optimizer of its own. The running statistics that evaluation uses follow
    what the first phase of a step shows to the encoder.

    Args:
        model: with its parts built.
        phases: all phases by name, in the order in which they run.
        gradients: of the model.
    """

    def __init__(self, model: Autoencoder, phases: Mapping[str, Phase], gradients: Gradients) -> None:
        self.model, self.phases, self.gradients = model, phases, gradients
        self._frozen: dict[str, list[Parameter]] = {}  # by phase, what it does not move

    def optimizers(self) -> dict[str, Optimizer]:
        """New optimizers, by the phase whose settings they have, in the order in which :meth:`run` takes them."""
        self._freeze()
        return {name: phase.optimizer.build(self._groups(name)) for name, phase in self.phases.items()}

    def run(self, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], total_steps: float) -> None:
        """One step.

        Args:
            sees: the phases that the step has, in order, with what each :meth:`~Phase.sees`.
            step: with its batch.
            optimizers: those that :meth:`optimizers` made.
            total_steps: how many steps the training has.
        """
        self.move(sees, step, optimizers, self.set_rates(sees, step.number, optimizers, total_steps))

    def set_rates(
        self, active: Collection[str], number: int, optimizers: Sequence[Optimizer], total_steps: float
    ) -> dict[str, float]:
        """Write the learning rates of step ``number`` into the optimizers.

        Returns:
            By phase, what its gradient is multiplied with on the way to the encoder, where that is not 1 by nature.
        """
        for (name, phase), optimizer in zip(self.phases.items(), optimizers, strict=True):
            if name in active:
                encoder_lr, lr = phase.learning_rates(number, total_steps)
                for group in optimizer.param_groups:
                    group["lr"] = encoder_lr if group["recognition"] else lr
        return {}

    def move(
        self, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], shares: Mapping[str, float | Tensor]
    ) -> None:
        """One step at the learning rates that the optimizers have: a function of tensors, whose number nobody asks for.

        Args:
            sees: see :meth:`run`.
            step: with its batch.
            optimizers: with their rates set.
            shares: what :meth:`set_rates` returned.
        """
        by_phase = dict(zip(self.phases, optimizers, strict=True))
        for i, (name, seen) in enumerate(sees.items()):
            self.run_phase(name, seen, step, by_phase[name], tracked=i == 0)

    def run_phase(self, name: str, sees: Collection[str], step: TrainStep, optimizer: Optimizer, tracked: bool) -> None:
        """One phase of a step; ``tracked``: the running statistics follow what it shows to the encoder."""
        phase = self.phases[name]
        with frozen(self._frozen[name]):
            seen = {part: phase.selected(step.images(part), step) for part in sees}
            encoded = encode(self.model, seen, phase.reads, name, step, tracked)
            self._follow({name: phase.loss(self.model, encoded, step)}, name, optimizer, step)

    def _follow(self, losses: Mapping[str, Tensor], name: str, optimizer: Optimizer, step: TrainStep) -> None:
        self.gradients.follow(losses, optimizer, name, self.phases[name].optimizer.clip_norm)
        if step.logged:
            step.numbers |= {phase: loss.detach() for phase, loss in losses.items()}

    def _groups(self, *names: str) -> list[dict[str, Any]]:
        """The parameters that some phases move, encoder and posterior last; what several move belongs to the first."""
        groups: list[dict[str, Any]] = []
        taken: set[Parameter] = set()
        phases = [(name, self.phases[name]) for name in names]
        wanted = [(name, False, phase.others(self.model)) for name, phase in phases]
        for name, recognition, parameters in [*wanted, *((n, True, p.recognition(self.model)) for n, p in phases)]:
            own = [p for p in parameters if p not in taken]
            taken.update(own)
            if own:
                groups.append({"params": own, "phase": name, "recognition": recognition})
        return groups

    def _freeze(self) -> None:
        parameters = list(self.model.parameters())
        for name, phase in self.phases.items():
            moved = {*phase.recognition(self.model), *phase.others(self.model)}
            self._frozen[name] = [p for p in parameters if p not in moved]


class Fused(Sequential):
    """All phases of a step with one pass and one backward pass through the encoder, which is faster.

    What differs from the sequential phases:

    - Phases that move the encoder see the parameters that the step began with.
    - One view of each image, and one draw of its code, serves all of them; the agreement adds a second view, the labels
      add the labelled images. All of them are one batch of the encoder: its batch statistics, running ones too, are
      those of everything together.
    - The encoder has one optimizer, that of the first phase that moves it, with its ``betas``, ``weight_decay`` and
      ``clip_norm`` (one norm for all that these phases move). Adam for each phase would need the gradient of each
      phase, and so a backward pass for each. It gets the mean of the phases' gradients, weighted by their learning
      rates, and its own rate is the sum of these rates: ``sum_i lr_i * sum_i (lr_i / sum_j lr_j) g_i = sum_i lr_i
      g_i``. Plain gradient descent would move the encoder just as far as phase by phase; a step of a single phase is
      that phase's step. With the rate of the first as the rate instead, Adam, which does not see the scale of a
      gradient, would creep wherever another phase is the one that drives the encoder.
    - Everything else that a phase moves gets the gradient that it has in the phase, at the phase's rate.
    - Phases that do not move the encoder come last, with the codes of the same pass and optimizers of their own.

    Raises:
        ConfigurationError: settings of a phase that one optimizer for the encoder cannot have.
    """

    def __init__(self, model: Autoencoder, phases: Mapping[str, Phase], gradients: Gradients) -> None:
        super().__init__(model, phases, gradients)
        self._together = [name for name, phase in phases.items() if phase.recognition(model)]
        self._apart = [name for name in phases if name not in self._together]
        for name in self._together:
            for part in ("encoder", "posterior"):
                if part not in phases[name].moves and any(True for _ in getattr(model, part).parameters()):
                    raise ConfigurationError(
                        f"phases.{name} with moves={list(phases[name].moves)} and step='fused' is not usable: allowed "
                        "are phases that move both encoder and posterior, or neither"
                    )
        for name in self._together[1:]:
            for setting, none in (("clip_norm", None), ("weight_decay", 0.0)):
                value = getattr(phases[name].optimizer, setting)
                if value != none:
                    raise ConfigurationError(
                        f"phases.{name}.{setting}={value} with step='fused' is not usable: allowed is "
                        f"{'null' if none is None else none}, the encoder has the optimizer of {self._together[0]}"
                    )

    def optimizers(self) -> dict[str, Optimizer]:
        self._freeze()
        sets = [self._together, *([name] for name in self._apart)]
        return {names[0]: self.phases[names[0]].optimizer.build(self._groups(*names)) for names in sets if names}

    def set_rates(
        self, active: Collection[str], number: int, optimizers: Sequence[Optimizer], total_steps: float
    ) -> dict[str, float]:
        rates = {name: self.phases[name].learning_rates(number, total_steps) for name in active}
        encoder_rates = {name: rates[name][0] for name in active if name in self._together}
        encoder_lr = sum(encoder_rates.values())
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if group["recognition"]:
                    group["lr"] = encoder_lr
                elif group["phase"] in rates:
                    group["lr"] = rates[group["phase"]][1]
        # Without a rate nothing moves, but Adam goes on averaging gradients, as it does phase by phase.
        return {n: rate / encoder_lr if encoder_lr else 1 / len(encoder_rates) for n, rate in encoder_rates.items()}

    def move(
        self, sees: Sees, step: TrainStep, optimizers: Sequence[Optimizer], shares: Mapping[str, float | Tensor]
    ) -> None:
        together = [name for name in sees if name in self._together]
        by_phase = dict(zip([*self._together[:1], *self._apart], optimizers, strict=True))
        encoded = self._one_pass(sees, together, step)
        if together:
            losses = {}
            for name in together:
                part = self._part_of(encoded, name, sees[name], shares[name], step)
                with frozen(self._frozen[name]):
                    losses[name] = self.phases[name].loss(self.model, part, step)
            self._follow(losses, self._together[0], by_phase[self._together[0]], step)
        for name in [name for name in sees if name in self._apart]:
            with frozen(self._frozen[name]):
                part = self._part_of(encoded, name, sees[name], None, step)
                loss = self.phases[name].loss(self.model, part, step)
                self._follow({name: loss}, name, by_phase[name], step)

    def _one_pass(self, sees: Sees, together: Sequence[str], step: TrainStep) -> dict[str, Encoded]:
        """Everything that the phases of a step see."""
        reads = {output for name in sees for output in self.phases[name].reads}
        seen = {part: step.images(part) for parts in sees.values() for part in parts}
        with frozen(self._frozen[together[0]]) if together else torch.no_grad():
            return encode(self.model, seen, reads, "fused", step, tracked=True)

    def _part_of(
        self,
        encoded: Mapping[str, Encoded],
        name: str,
        sees: Collection[str],
        share: float | Tensor | None,
        step: TrainStep,
    ) -> dict[str, Encoded]:
        """What a phase sees of it; ``share`` multiplies its gradient on the way to the encoder, None cuts it off."""
        phase = self.phases[name]
        part: dict[str, Encoded] = {}
        for seen in sees:
            outputs = {key: encoded[seen].outputs[key] for key in ("features", *phase.reads)}
            outputs = {key: phase.selected(value, step) for key, value in outputs.items()}
            outputs = {k: v.detach() if share is None else _scale_gradient(v, share) for k, v in outputs.items()}
            part[seen] = Encoded(phase.selected(encoded[seen].images, step), **outputs)
        return part


STEPS: dict[str, type[Sequential]] = {"sequential": Sequential, "fused": Fused}
"""By the name that a configuration gives it."""


def encode(
    model: Autoencoder,
    seen: Mapping[str, Tensor],
    reads: Collection[str],
    purpose: str,
    step: TrainStep,
    tracked: bool,
) -> dict[str, Encoded]:
    """One pass of views of some images through the encoder.

    Args:
        model: with its parts built.
        seen: images by name, ``[B, C, H, W]`` each.
        reads: ``codes`` and ``logits``, where they are wanted.
        purpose: of the draws.
        step: with the draws.
        tracked: whether the running statistics follow these images.
    """
    if model.prior.code_dim == 0:
        return {
            part: Encoded(x, features=x.new_zeros(len(x), 0), codes=x.new_zeros(len(x), 0)) for part, x in seen.items()
        }
    keys = {part: purpose if part == "unlabelled" else f"{part} {purpose}" for part in seen}
    views = _joined([_view(model, x, f"view {keys[part]}", step) for part, x in seen.items()])
    noise, dim = None, model.posterior.noise_dim
    if dim and "codes" in reads:
        draws = [step.draws.normal(f"posterior {keys[part]}", len(x), dim) for part, x in seen.items()]
        noise = _joined(draws).to(views)
    with running_statistics(*((model.encoder, model.posterior) if tracked else ())):
        outputs = {"features": model.encoder(views)}
        if "codes" in reads:
            outputs["codes"] = model.posterior(outputs["features"], noise)
        elif "logits" in reads:
            outputs["logits"] = model.posterior.logits(outputs["features"])
    if "codes" in reads and "logits" in reads:  # the statistics have seen these images
        outputs["logits"] = model.posterior.logits(outputs["features"])
    sizes = [len(x) for x in seen.values()]
    split = {key: value.split(sizes) for key, value in outputs.items()}
    return {
        part: Encoded(x, **{key: values[i] for key, values in split.items()})
        for i, (part, x) in enumerate(seen.items())
    }


def _view(model: Autoencoder, x: Tensor, purpose: str, step: TrainStep) -> Tensor:
    """A random view of each image, where the model has them."""
    if model.augmentation is None:
        return x
    return model.augmentation(x, step.draws.uniform(purpose, len(x), model.augmentation.num_draws).to(x))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _scale_gradient(x: Tensor, factor: float | Tensor) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor`` on the way back."""
    if x.requires_grad and (isinstance(factor, Tensor) or factor != 1.0):
        x = x.view_as(x)
        x.register_hook(lambda gradient: factor * gradient)
    return x


__all__ = ["STEPS", "Fused", "Sees", "Sequential", "encode"]
