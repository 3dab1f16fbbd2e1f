"""The fused step: the phases' gradients at the same parameters, from one pass through the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_model import (
    CATEGORICAL,
    CLASSES,
    GAUSSIAN,
    PHASES,
    batches,
    close,
    fit,
    loader,
    phases,
    state,
    tiny,
    trainer,
)
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases import Phase, TrainStep
from pixelgan_lightning.posteriors import CategoricalPosterior
from pixelgan_lightning.priors import GaussianMixture, NoCode
from pixelgan_lightning.random import RowDraws
from pixelgan_lightning.training.steps import encode

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

NO_STATISTICS: dict[str, Any] = {
    **CATEGORICAL,
    "encoder": ConvEncoder([4], num_features=6, norm="none"),
    "posterior": CategoricalPosterior(standardize=False),
}
LABEL_AWARE: dict[str, Any] = {
    "prior": GaussianMixture(CLASSES),
    "discriminator": MLPDiscriminator([8], code_noise=0.3, label_aware=True),
}
RATES = dict(zip(PHASES, [2e-2, 3e-2, 1e-2, 7e-3, 5e-3], strict=True))


def with_rates(*names: str, more: dict[str, Any] | None = None, **settings: dict[str, Any]) -> dict[str, Phase]:
    """Phases with learning rates that differ; ``more``: settings of all."""
    rates = {name: {"lr": lr, **(more or {}), **settings.get(name, {})} for name, lr in RATES.items()}
    rates["reconstruction"]["encoder_lr"] = 4e-3
    return phases(*names, **rates)


SIZE = 6  # images of a batch


class SharedDraws(RowDraws):
    """What the phases draw apart and the fused step draws once is drawn once here."""

    def uniform(self, purpose: str, rows: int, *shape: int) -> Tensor:
        kind, *rest = purpose.split(" ")
        if kind not in ("view", "posterior"):
            return super().uniform(purpose, rows, *shape)
        of_all = super().uniform(" ".join([kind, *rest[:-1], "fused"]), SIZE, *shape)
        return of_all[torch.arange(rows) * SIZE // rows]  # a phase that sees fewer images sees these


def encode_together(model: PixelGAN) -> None:
    """Let each phase take its rows from an encoder pass over everything that the step sees, with its statistics."""
    encoder, norm = model.encoder.forward, model.posterior.norm.forward if hasattr(model.posterior, "norm") else None
    last: list[Tensor] = []
    everything: list[Tensor] = []

    def run(active: Sequence[str], step: TrainStep, *args: Any) -> None:
        seen = dict.fromkeys(part for name in active for part in model.phases[name].sees(model, step.number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model.encoder, "forward", lambda views: everything.append(views) or encoder(views))
            if norm is not None:
                patch.setattr(model.posterior.norm, "forward", norm)
            with torch.no_grad():
                encode(model, {part: step.images(part) for part in seen}, (), "fused", step, tracked=False)
        run_phases(active, step, *args)
        everything.clear()

    def features(views: Tensor) -> Tensor:
        same = (views.flatten(1)[:, None] == everything[0].flatten(1)).all(2)
        assert same.any(1).all()
        last[:] = encoder(everything[0]), same.int().argmax(1)
        return last[0][last[1]]

    run_phases = model.step.run
    model.step.run = run  # type: ignore[method-assign]
    model.encoder.forward = features  # type: ignore[method-assign]
    if norm is not None:
        model.posterior.norm.forward = lambda _: norm(model.posterior.linear(last[0]))[last[1]]


class Moves(pl.Callback):
    """How far plain gradient descent would move each parameter: the parameters stay what they are."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self.stepped: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = {p: name for name, p in pl_module.named_parameters()}
        start = {p: p.detach().clone() for p in names}

        def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            moved = [(p, group) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if moved:  # not the step that only counts
                self.stepped.append(optimizer.param_groups[0]["phase"])
            for p, group in moved:
                before = self.by_name.get(names[p], torch.zeros_like(p))
                self.by_name[names[p]] = before + group["lr"] * p.grad

        @torch.no_grad()
        def restore(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            for p, value in start.items():
                p.copy_(value)

        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(look)
            optimizer.register_step_post_hook(restore)


UNLABELLED = ("reconstruction", "discriminator", "generator", "agreement")
CASES: dict[str, tuple[dict[str, Any], dict[str, Phase], bool, bool]] = {
    # arguments, phases, with labels, with batch statistics
    "labelled": (NO_STATISTICS, with_rates(), True, False),
    "labelled_with_statistics": (CATEGORICAL, with_rates(), True, True),
    "unlabelled_with_statistics": (CATEGORICAL, with_rates(*UNLABELLED), False, True),
    "without_agreement": (CATEGORICAL, with_rates(*UNLABELLED[:3], "classification"), True, True),
    "fewer_reconstructions": (CATEGORICAL, with_rates(reconstruction={"images": 4}), True, True),
    "gaussian": (
        {**GAUSSIAN, "encoder": ConvEncoder([4], num_features=6, norm="none")},
        with_rates(*UNLABELLED[:3]),
        False,
        False,
    ),
    "gaussian_with_statistics": (GAUSSIAN, with_rates(*UNLABELLED[:3]), False, True),
    "label_aware_with_statistics": (LABEL_AWARE, with_rates(*UNLABELLED[:3]), True, True),
    "straight_through": (
        {**NO_STATISTICS, "posterior": CategoricalPosterior(standardize=False, straight_through="sample")},
        with_rates(),
        True,
        False,
    ),
    "no_code": (
        {"prior": NoCode(), "discriminator": MLPDiscriminator([8])},
        with_rates("reconstruction"),
        False,
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_sum_of_the_phases(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted by the learning rates; decoder and discriminator have only one phase each."""
    monkeypatch.setattr("pixelgan_lightning.model.RowDraws", SharedDraws)
    arguments, wanted, labelled, statistics = CASES[case]
    seen = []
    for step in ("sequential", "fused"):
        model = tiny(**{**arguments, "phases": wanted}, step=step)
        if step == "sequential" and statistics:
            encode_together(model)
        moves = Moves()
        fit(model, batches(1, labelled=labelled), callbacks=[moves])
        seen.append(moves)
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
    apart, fused = seen
    assert apart.stepped == list(wanted)
    assert fused.stepped == [name for name in wanted if name in ("reconstruction", "discriminator")]
    assert apart.by_name.keys() == fused.by_name.keys()
    for name, value in apart.by_name.items():
        close(fused.by_name[name], value)
        assert value.abs().max() > 1e-9


def test_the_encoder_moves_as_far_as_in_a_phase_that_is_alone() -> None:
    """A warm-up has one phase: with the settings of its optimizer the fused step is this phase, Adam included."""
    ends = []
    for step in ("sequential", "fused"):
        wanted = with_rates(
            "reconstruction", "generator", "classification", more={"betas": (0.5, 0.9)}, classification={"alone": 3}
        )
        model = tiny(augmentation=None, phases=wanted, step=step)
        start = state(model)
        fit(model, batches(3))
        ends.append(state(model))
        assert model.trainer.global_step == 3
    for name in ends[0]:
        close(ends[0][name], ends[1][name], atol=1e-9)  # sums in another order, and Adam divides by small roots
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], ends[1][name])}
    assert changed == {"encoder", "posterior"}


def test_behind_a_delay_the_encoder_moves_as_far_as_phase_by_phase() -> None:
    """Adam has averaged gradients meanwhile, so that its first steps are not too long."""
    ends = []
    for step in ("sequential", "fused"):
        model = tiny(augmentation=None, phases=with_rates("reconstruction", more={"encoder_delay": 3}), step=step)
        start = state(model)
        fit(model, batches(3))
        weights = [name for name in start if name.startswith("encoder") and "running" not in name]
        assert all(torch.equal(start[name], state(model)[name]) for name in weights)
        fit(model := tiny(augmentation=None, phases=model.phases, step=step), batches(5))
        assert not all(torch.equal(start[name], state(model)[name]) for name in weights)
        ends.append(state(model))
    for name in ends[0]:
        close(ends[0][name], ends[1][name], atol=1e-9)


@pytest.mark.parametrize("alone", ["agreement", "classification"])
def test_warmups_end(alone: str) -> None:
    wanted = phases(reconstruction={"weight_decay": 0.1}, **{alone: {"alone": 2}})
    model = tiny(phases=wanted, step="fused")
    start = state(model)
    fit(model, batches(2))
    changed = {name.split(".")[0] for name, value in state(model).items() if not torch.equal(start[name], value)}
    assert changed == {"encoder", "posterior"}
    assert all(
        not torch.equal(start[name], value) for name, value in state(model).items() if name.endswith("running_mean")
    )
    fit(model := tiny(phases=wanted, step="fused"), batches(4))
    changed = {name.split(".")[0] for name, value in state(model).items() if not torch.equal(start[name], value)}
    assert changed == {"encoder", "posterior", "decoder", "discriminator"}


def test_learning_rate_of_the_encoder_is_the_sum() -> None:
    wanted = with_rates(reconstruction={"lr": 0.1, "schedule": "linear"}, generator={"lr": 0.4, "schedule": "cosine"})
    model = tiny(phases=wanted, step="fused")
    seen: list[list[float]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(model, batches(3), callbacks=[Watch()])
    for step, (decoder, encoder) in enumerate(seen):
        linear, cosine = 1 - step / 3, 0.5 * (1 + math.cos(math.pi * step / 3))
        assert decoder == pytest.approx(0.1 * linear)
        assert encoder == pytest.approx(4e-3 * linear + 0.4 * cosine + 7e-3 + 5e-3)


def test_a_continued_fit_equals_the_whole_one(tmp_path: Path) -> None:
    data, arguments = batches(3), {"step": "fused"}
    whole = tiny(**arguments)
    fit(whole, data, max_epochs=2)
    fit(tiny(**arguments), data).save_checkpoint(tmp_path / "three.ckpt")
    stored = torch.load(tmp_path / "three.ckpt", weights_only=True)
    assert stored["global_step"] == 3
    assert stored["hyper_parameters"]["step"] == "fused"
    assert [bool(o["state"]) for o in stored["optimizer_states"]] == [True, True]
    model = tiny(**arguments)
    run = trainer(max_epochs=2)
    run.fit(model, loader(data), ckpt_path=tmp_path / "three.ckpt")
    assert run.global_step == 6
    for name, value in state(whole).items():
        assert torch.equal(state(model)[name], value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": {"clip_norm": 1.0}}, "phases.generator.clip_norm=1.0 with step='fused' .* null"),
        ({"agreement": {"weight_decay": 0.1}}, "phases.agreement.weight_decay=0.1 with step='fused' .* 0.0"),
    ],
)
def test_refuses_what_one_optimizer_cannot_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tiny(phases=phases(**settings), step="fused")


def test_ways_to_run_the_phases() -> None:
    with pytest.raises(ConfigurationError, match="step='both' is not usable: allowed are 'sequential', 'fused'"):
        tiny(step="both")


def test_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commandline import SMALL, load_step, pixelgan

    monkeypatch.chdir(tmp_path)
    pixelgan("fit", "--config", SMALL, "--model.step", "fused", "--run_dir", "run")
    assert load_step(Path("run")) == 2
