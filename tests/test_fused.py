"""The fused step: the phases' gradients at the same parameters, from one pass through the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_model import CATEGORICAL, CLASSES, GAUSSIAN, batches, close, fit, loader, state, tiny, trainer
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.model import PHASES
from pixelgan_lightning.optimization import PhaseOptimizer
from pixelgan_lightning.posteriors import CategoricalPosterior
from pixelgan_lightning.priors import GaussianMixture, NoCode
from pixelgan_lightning.random import RowDraws

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
    "label_aware": True,
    "discriminator": MLPDiscriminator([8], code_noise=0.3),
}
RATES = {"reconstruction": 2e-2, "discriminating": 3e-2, "generating": 1e-2, "agreement": 7e-3, "classification": 5e-3}


def optimizers(**more: Any) -> dict[str, Any]:
    return {**{name: PhaseOptimizer(lr=lr, **more) for name, lr in RATES.items()}, "encoder_lr": 4e-3}


class SharedDraws(RowDraws):
    """What the phases draw apart and the fused step draws once is drawn once here."""

    latest: RowDraws

    def __init__(self, *key: int | str, **process: Any) -> None:
        super().__init__(*key, **process)
        SharedDraws.latest = self

    def uniform(self, purpose: str, rows: int, *shape: int) -> Tensor:
        kind, _, phase = purpose.partition(" ")
        if kind in ("view", "posterior") and not phase.endswith("fused"):
            part = "second " if phase == "agreement 2" else ""
            part = "labelled " if phase == "classification" or phase.startswith("labelled ") else part
            purpose = f"{kind} {part}fused"
        return super().uniform(purpose, rows, *shape)


def encode_together(model: PixelGAN, data: Sequence[dict[str, Any]]) -> None:
    """Let each phase take its rows from an encoder pass over everything that the step sees, with its statistics."""
    encoder, norm = model.encoder.forward, model.posterior.norm.forward if hasattr(model.posterior, "norm") else None
    last: list[Tensor] = []

    def features(views: Tensor) -> Tensor:
        batch = data[model.global_step]
        parts = {"": batch["unlabelled"]["image"]}
        if model.agree:
            parts["second "] = parts[""]
        if "labelled" in batch:
            parts["labelled "] = batch["labelled"]["image"]
        together = torch.cat([model._view(x, SharedDraws.latest, f"{part}fused") for part, x in parts.items()])
        same = (views.flatten(1)[:, None] == together.flatten(1)).all(2)
        assert same.any(1).all()
        last[:] = encoder(together), same.int().argmax(1)
        return last[0][last[1]]

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
            self.stepped.append(PHASES[trainer.optimizers.index(optimizer)])
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        before = self.by_name.get(names[p], torch.zeros_like(p))
                        self.by_name[names[p]] = before + group["lr"] * p.grad

        @torch.no_grad()
        def restore(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            for p, value in start.items():
                p.copy_(value)

        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(look)
            optimizer.register_step_post_hook(restore)


CASES: dict[str, tuple[dict[str, Any], bool, bool]] = {  # arguments, with labels, with batch statistics
    "labelled": (NO_STATISTICS, True, False),
    "labelled_with_statistics": (CATEGORICAL, True, True),
    "unlabelled_with_statistics": (CATEGORICAL, False, True),
    "without_agreement": ({**CATEGORICAL, "agree": False}, True, True),
    "fewer_reconstructions": ({**CATEGORICAL, "reconstruction_images": 4}, True, True),
    "gaussian": ({**GAUSSIAN, "encoder": ConvEncoder([4], num_features=6, norm="none")}, False, False),
    "gaussian_with_statistics": (GAUSSIAN, False, True),
    "label_aware_with_statistics": (LABEL_AWARE, True, True),
    "straight_through": (
        {**NO_STATISTICS, "posterior": CategoricalPosterior(standardize=False, straight_through="sample")},
        True,
        False,
    ),
    "no_code": ({"prior": NoCode(), "discriminator": MLPDiscriminator([8])}, False, False),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_sum_of_the_phases(case: str, accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted by the learning rates; decoder and discriminator have only one phase each."""
    monkeypatch.setattr("pixelgan_lightning.model.RowDraws", SharedDraws)
    arguments, labelled, statistics = CASES[case]
    data = batches(accumulate, labelled=labelled)
    seen = []
    for step in ("sequential", "fused"):
        model = tiny(**arguments, **optimizers(), step=step, accumulate_batches=accumulate)
        if step == "sequential" and statistics:
            encode_together(model, data)
        moves = Moves()
        fit(model, data, callbacks=[moves])
        seen.append(moves)
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
    phases, fused = seen
    coded = case != "no_code"
    agree, classify = arguments.get("agree", False), labelled and not arguments.get("label_aware", False)
    assert phases.stepped == [p for p, has in zip(PHASES, [True, coded, coded, agree, classify], strict=True) if has]
    assert fused.stepped == ["reconstruction", *([] if case == "no_code" else ["discriminator"])]
    assert phases.by_name.keys() == fused.by_name.keys()
    for name, value in phases.by_name.items():
        close(fused.by_name[name], value)
        assert value.abs().max() > 1e-9


def test_the_encoder_moves_as_far_as_in_a_phase_that_is_alone() -> None:
    """A warm-up has one phase: with the settings of its optimizer the fused step is this phase, Adam included."""
    ends = []
    for step in ("sequential", "fused"):
        model = tiny(augmentation=None, agree=False, **optimizers(betas=(0.5, 0.9)), label_warmup_steps=3, step=step)
        start = state(model)
        fit(model, batches(3))
        ends.append(state(model))
        assert model.trainer.global_step == 3
    for name in ends[0]:
        close(ends[0][name], ends[1][name], atol=1e-9)  # sums in another order, and Adam divides by small roots
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], ends[1][name])}
    assert changed == {"encoder", "posterior"}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("warmup", ["label_warmup_steps", "agreement_warmup_steps"])
def test_warmups_end(warmup: str, accumulate: int) -> None:
    settings: dict[str, Any] = {"accumulate_batches": accumulate, warmup: 2, "reconstruction": {"weight_decay": 0.1}}
    model = tiny(**settings, step="fused")
    start = state(model)
    fit(model, batches(2))
    changed = {name.split(".")[0] for name, value in state(model).items() if not torch.equal(start[name], value)}
    assert changed == {"encoder", "posterior"}
    assert all(
        not torch.equal(start[name], value) for name, value in state(model).items() if name.endswith("running_mean")
    )
    fit(model := tiny(**settings, step="fused"), batches(4))
    changed = {name.split(".")[0] for name, value in state(model).items() if not torch.equal(start[name], value)}
    assert changed == {"encoder", "posterior", "decoder", "discriminator"}


def test_learning_rate_of_the_encoder_is_the_sum() -> None:
    settings = optimizers()
    settings["reconstruction"] = PhaseOptimizer(lr=0.1, schedule="linear")
    settings["generating"] = PhaseOptimizer(lr=0.4, schedule="cosine")
    model = tiny(**settings, step="fused")
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
    """Three batches an epoch, two of which are summed: the checkpoint holds half a sum."""
    data, arguments = batches(3), {"step": "fused", "accumulate_batches": 2}
    whole = tiny(**arguments)
    fit(whole, data, max_epochs=2)
    fit(tiny(**arguments), data).save_checkpoint(tmp_path / "three.ckpt")
    stored = torch.load(tmp_path / "three.ckpt", weights_only=True)
    assert stored["global_step"] == 3
    assert stored["hyper_parameters"]["step"] == "fused"
    assert [bool(o["state"]) for o in stored["optimizer_states"]] == [True, True, False, False, False]
    model = tiny(**arguments)
    run = trainer(max_epochs=2)
    run.fit(model, loader(data), ckpt_path=tmp_path / "three.ckpt")
    assert run.global_step == 6
    for name, value in state(whole).items():
        assert torch.equal(state(model)[name], value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": "both"}, "step='both' is not usable: allowed are 'sequential', 'fused'"),
        ({"step": "fused", "generating": {"clip_norm": 1.0}}, "generating.clip_norm=1.0 with step='fused' .* null"),
        ({"step": "fused", "agreement": {"weight_decay": 0.1}}, "agreement.weight_decay=0.1 with step='fused' .* 0.0"),
    ],
)
def test_refuses_what_one_optimizer_cannot_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tiny(**arguments)


def test_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commandline import SMALL, load_step, pixelgan

    monkeypatch.chdir(tmp_path)
    pixelgan("fit", "--config", SMALL, "--model.step", "fused", "--run_dir", "run")
    assert load_step(Path("run")) == 2
