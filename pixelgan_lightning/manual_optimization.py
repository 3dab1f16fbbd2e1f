"""Several optimizers in one training step: each phase moves its own parameters, and the step counts once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from pixelgan_lightning.errors import ConfigurationError, NonFiniteError
from pixelgan_lightning.optimization import PhaseOptimizer


class ManualOptimization(pl.LightningModule):
    """Gradients, clipping, accumulation and learning rates by phase, and a ``global_step`` that counts batches.

    Attributes:
        phase_optimizers: settings by phase, in the order of the optimizers that ``configure_optimizers`` returns.
        accumulate_batches: batches whose gradients are averaged before an optimizer moves.
    """

    phase_optimizers: dict[str, PhaseOptimizer]
    accumulate_batches: int

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._gradient_sums: dict[str, list[Tensor]] = {}
        self._watched: list[tuple[str, Tensor]] = []  # losses and gradient norms that nobody has looked at yet

    def setup(self, stage: str) -> None:
        """Refuse what Lightning takes without a word and does not do in manual optimization.

        Raises:
            ConfigurationError: checkpoints by time; DDP that waits for gradients that a phase does not give.
        """
        strategy = self.trainer.strategy
        waits = isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters")
        if stage == "fit" and waits:
            raise ConfigurationError(
                "strategy=ddp is not usable: each phase gives gradients to its own parameters only; allowed is "
                "strategy=ddp_find_unused_parameters_true (--config configs/trainer/ddp.yaml)"
            )
        for callback in self.trainer.checkpoint_callbacks:
            interval = getattr(callback, "_train_time_interval", None)
            if stage == "fit" and interval is not None:
                raise ConfigurationError(
                    f"train_time_interval={interval} is not usable: nothing would be saved; allowed is "
                    "every_n_train_steps"
                )

    @contextmanager
    def _phase(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        """Give the parameters of one phase a gradient and nothing else; yields what applies a loss to them."""
        with self._moving(name) as move:
            yield lambda loss: move(self._reported(name, loss))

    @contextmanager
    def _moving(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        """Like :meth:`_phase`, for a loss that is no phase's own and is not logged."""
        optimizer = self._optimizers_by_phase()[name]

        def move(loss: Tensor) -> None:
            self.manual_backward(loss / self.accumulate_batches)
            self._accumulate_or_step(name, optimizer)

        with self.toggled_optimizer(optimizer):
            yield move

    def _optimizers_by_phase(self) -> dict[str, Any]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return dict(zip(self.phase_optimizers, optimizers, strict=True))

    def _reported(self, phase: str, loss: Tensor) -> Tensor:
        """The loss of a phase, logged and watched."""
        self._watch(loss.detach(), "loss", phase)
        self._log_train(phase, loss.detach())
        return loss

    def _watch(self, value: Tensor, what: str, phase: str) -> None:
        """Remember a value that has to be finite: to look at it at once would make the host wait for the device."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        where = f"at step {self.global_step} (batch {progress.ready - 1} of epoch {self.current_epoch})"
        self._watched.append((f"the {what} of the {phase} phase is {{}} {where}", value))

    def require_finite(self) -> None:
        """Look at all losses and gradient norms since the last time, in one transfer from the device.

        Called before an optimizer moves where looking costs nothing, on a CPU; elsewhere with every row of the logs,
        which reads from the device anyway, and at the end of an epoch. And before each validation and each checkpoint:
        no number and no file ever holds what came of such a value.

        Raises:
            NonFiniteError: for the first that is infinite or NaN; again at each further call.
        """
        if not self._watched:
            return
        values = torch.stack([value.float() for _, value in self._watched])
        for (message, _), value in zip(self._watched, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(f"{message.format(value)}; checkpoints written before are good")
        self._watched.clear()

    def on_train_epoch_end(self) -> None:
        self.require_finite()

    @property
    def _looking_is_free(self) -> bool:
        return self.device.type == "cpu"

    def _accumulate_or_step(self, name: str, optimizer: Any) -> None:
        """Phases share the encoder, so each keeps the sum of its own gradients between steps."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of fp16; it skips steps that are not finite
        if scaler is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
            self._watch(norm, "norm of the gradient", name)
        if self._looking_is_free:
            self.require_finite()
        if self.accumulate_batches > 1:
            scale = 1.0 if scaler is None else scaler.get_scale()
            total = self._gradient_sums.setdefault(name, [torch.zeros_like(p) for p in params])
            for s, p in zip(total, params, strict=True):
                if p.grad is not None:
                    s += p.grad / scale  # the scale may change before the optimizer steps
            if (self.global_step + 1) % self.accumulate_batches:
                optimizer.zero_grad()
                return
            for s, p in zip(self._gradient_sums.pop(name), params, strict=True):
                if p.grad is not None:  # in a warm-up some parameters have no part
                    p.grad = s * scale
        if scaler is None:
            self._clip(name, optimizer)
        optimizer.step()
        optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """With a scaler of half precision gradients can be clipped here only, when Lightning has unscaled them."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            optimizers = zip(self.phase_optimizers, self.trainer.optimizers, strict=True)
            self._clip(next(phase for phase, other in optimizers if other is optimizer), optimizer)

    def _clip(self, phase: str, optimizer: Any) -> None:
        clip_norm = self.phase_optimizers[phase].clip_norm
        if clip_norm is not None:
            self.clip_gradients(optimizer, gradient_clip_val=clip_norm, gradient_clip_algorithm="norm")

    @contextmanager
    def _one_step_per_batch(self) -> Iterator[None]:
        """Let ``global_step`` advance by one per batch, and set the learning rates of this step.

        Lightning counts every ``optimizer.step()`` of manual optimization: with four phases ``max_steps``, checkpoints
        and loggers would run four times too fast.
        """
        total_steps = self.trainer.estimated_stepping_batches
        optimizers = self.trainer.strategy._lightning_optimizers
        for settings, optimizer in zip(self.phase_optimizers.values(), optimizers, strict=True):
            optimizer._on_before_step = optimizer._on_after_step = _nothing
            settings.set_learning_rates(optimizer.optimizer, self.global_step, total_steps)
        yield
        if self.trainer._logger_connector.should_update_logs:
            self.require_finite()
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def _log_train(self, name: str, value: Tensor, batch_size: int | None = None) -> None:
        self.log(f"train/{name}", value, prog_bar=name in ("reconstruction", "classification"), batch_size=batch_size)


def _nothing() -> None:
    """Takes the place of Lightning's step counter."""
