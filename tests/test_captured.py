"""Steps on fixed places, as a CUDA graph has them, are the steps without, bit by bit; seen without a GPU.

In place of a graph the function that would be recorded is called again, with everything in Python as it was when it
was recorded: what differs between steps it can know from the fixed places alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_fused import LABEL_AWARE, with_rates
from test_model import CATEGORICAL, GAUSSIAN, batches, fit, images, loader, phases, state, tiny, trainer
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import NonFiniteError
from pixelgan_lightning.phases import Encoded, Phase, TrainStep
from pixelgan_lightning.posteriors import CategoricalPosterior
from pixelgan_lightning.priors import Gaussian, Prior
from pixelgan_lightning.training.averaging import ExponentialMovingAverage
from pixelgan_lightning.training.captured import Captured, why_not
from pixelgan_lightning.training.steps import Sequential

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


class Called:
    """Stands for CUDA graphs: what is recorded is called instead of replayed, and finds no learning rates in Python."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.trainer: pl.Trainer

    def rehearse(self, function: Callable[[], None]) -> str | None:
        function()
        return None

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
            rates = [group["lr"] for group in groups]
            for group in groups:
                group["lr"] = float("nan")
            function()
            for group, lr in zip(groups, rates, strict=True):
                group["lr"] = lr

        return replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Lets models with ``cuda_graphs`` run captured on the CPU."""
    recorder = Called()

    def choose(model: PixelGAN) -> Sequential | Captured:
        recorder.trainer = model.trainer
        return Captured(model.step, recorder) if model.cuda_graphs else model.step

    monkeypatch.setattr(PixelGAN, "_choose_executor", choose)
    return recorder


class Losses(pl.Callback):
    """What the steps log."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def trained(
    arguments: Mapping[str, Any], data: list[dict[str, Any]], captured: bool, average: bool = False, **more: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[dict[str, float]]]:
    """Weights, the state of the optimizers and what was logged, after some epochs."""
    model = tiny(**arguments)
    model.cuda_graphs = captured
    losses = Losses()
    averages = [ExponentialMovingAverage(0.9, 2)] if average else []
    run = fit(model, data, callbacks=[losses, *averages], log_every_n_steps=4, **{"max_epochs": 4, **more})
    return state(model), [optimizer.state_dict() for optimizer in run.optimizers], losses.seen


def neighbours(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for i, batch in enumerate(data):
        batch["unlabelled"]["neighbour"] = images(len(batch["unlabelled"]["image"]), f"neighbour {i}")
    return data


EVERYTHING = with_rates(
    more={"betas": (0.5, 0.9)},
    reconstruction={"clip_norm": 0.05, "images": 4, "schedule": "linear"},
    generator={"warmup_steps": 5, "schedule": "cosine"},
    agreement={"neighbour_steps": 7},
)
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {  # arguments, data
    "everything": ({**CATEGORICAL, "phases": EVERYTHING}, neighbours(batches(6))),
    "labels first": ({**CATEGORICAL, "phases": phases(classification={"alone": 6})}, batches(6)),
    "agreement first": ({**CATEGORICAL, "phases": phases(agreement={"alone": 6})}, batches(6)),
    "smaller last batch": (CATEGORICAL, [*batches(5), *batches(1, size=4)]),
    "gaussian": (GAUSSIAN, batches(6, labelled=False)),
    "drawn one-hot codes": ({**CATEGORICAL, "posterior": CategoricalPosterior(straight_through="sample")}, batches(6)),
    "the discriminator sees labels": (
        {**LABEL_AWARE, "phases": phases("reconstruction", "discriminator", "generator")},
        batches(6),
    ),
}


@pytest.mark.parametrize("step", ["sequential", "fused"])
@pytest.mark.parametrize("case", CASES)
def test_steps_on_fixed_places_are_the_same_steps(case: str, step: str, recorder: Called) -> None:
    arguments, data = CASES[case]
    plain = trained({**arguments, "step": step}, data, captured=False, average=True)
    fixed = trained({**arguments, "step": step}, data, captured=True, average=True)
    assert recorder.recorded >= 2
    assert recorder.replayed >= 8
    for name, value in plain[0].items():
        assert torch.equal(fixed[0][name], value), name
    for mine, theirs in zip(fixed[1], plain[1], strict=True):
        torch.testing.assert_close(mine["state"], theirs["state"], rtol=0, atol=0)
        assert mine["param_groups"] == theirs["param_groups"]
        assert all(type(group["lr"]) is float for group in mine["param_groups"])
    assert fixed[2] == plain[2]
    assert any(fixed[2])


@pytest.mark.parametrize("order", [(True, False), (False, True)], ids=["from graphs", "to graphs"])
def test_checkpoints_are_the_same(order: tuple[bool, bool], recorder: Called, tmp_path: Path) -> None:
    """A run is continued with graphs or without, whatever it had before."""
    data = batches(6)
    whole = trained(CATEGORICAL, data, captured=False, max_epochs=2)[0]
    for captured, epochs in zip(order, (1, 2), strict=True):
        model = tiny(**CATEGORICAL)
        model.cuda_graphs = captured
        run = trainer(max_epochs=epochs)
        run.fit(model, loader(data), ckpt_path=tmp_path / "one.ckpt" if epochs == 2 else None)
        run.save_checkpoint(tmp_path / "one.ckpt")
    assert recorder.replayed >= 3
    for name, value in whole.items():
        assert torch.equal(state(model)[name], value), name


def test_what_is_not_finite_stops_the_training_before_a_row_of_the_logs(recorder: Called) -> None:
    class Break(pl.Callback):
        @torch.no_grad()
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                pl_module.decoder.head.params.bias.fill_(float("nan"))

    model = tiny(**CATEGORICAL)
    model.cuda_graphs = True
    losses = Losses()
    with pytest.raises(NonFiniteError, match="the loss of the reconstruction phase is nan at step 5 "):
        fit(model, batches(12), callbacks=[Break(), losses], log_every_n_steps=8)
    assert recorder.replayed >= 3
    assert len(losses.seen) == 7


class _Own(Phase):
    reads = ("codes",)

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        return self.weight(step) * encoded["unlabelled"].codes.square().mean()

    def weight(self, step: TrainStep) -> float | Tensor:
        return 1.0


class Annealed(_Own):
    def weight(self, step: TrainStep) -> float | Tensor:
        return 1 / (1 + step.number)


class Sometimes(_Own):
    def weight(self, step: TrainStep) -> float | Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return step.draws.uniform(f"weight {self.calls}", 1).mean()


class FromTheHost(Prior):
    code_dim = 2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, 2, generator=generator)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"phases": {**phases(), "own": Annealed()}}, "a phase computes with the number of the step"),
        ({"phases": {**phases(), "own": Sometimes()}}, "the draws for 'weight 2' are not in every step"),
        ({**GAUSSIAN, "prior": FromTheHost()}, "the draws for 'prior' come from a generator of the CPU"),
    ],
    ids=["number", "draws", "generator"],
)
def test_what_a_graph_cannot_do_runs_without(
    arguments: dict[str, Any], reason: str, recorder: Called, caplog: pytest.LogCaptureFixture
) -> None:
    data = batches(6, labelled="posterior" not in arguments)
    plain, fixed = (trained(arguments, data, captured, max_epochs=1)[0] for captured in (False, True))
    for name, value in plain.items():
        assert torch.equal(fixed[name], value), name
    assert recorder.recorded == 0
    said = [record.message for record in caplog.records if "cuda_graphs" in record.message]
    assert said == [f"cuda_graphs: steps run one operation at a time, {reason}"]


def test_a_recording_that_fails_loses_no_step(recorder: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Called):
        def record(self, function: Callable[[], None]) -> Callable[[], None]:
            for p in model.parameters():  # as in the middle of a phase
                p.grad = torch.ones_like(p)
            raise RuntimeError("operation not permitted when stream is capturing")

    arguments, data = GAUSSIAN, batches(6, labelled=False)
    plain = trained(arguments, data, captured=False, max_epochs=1)[0]
    model = tiny(**arguments)
    monkeypatch.setattr(PixelGAN, "_choose_executor", lambda self: Captured(self.step, Fails()))
    fit(model, data)
    for name, value in plain.items():
        assert torch.equal(state(model)[name], value), name


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.encoder.layers[-2].weight, "data", model.encoder.layers[-2].weight.data.clone()),
        lambda model: model.encoder.layers[0].weight.requires_grad_(False),
        lambda model: model.discriminator.eval(),
        lambda model: [o.load_state_dict(copy.deepcopy(o.state_dict())) for o in model.trainer.optimizers],
        lambda model: model.trainer.optimizers[1].state.clear(),
    ],
    ids=["other weights", "frozen", "mode", "optimizers loaded", "optimizer's state gone"],
)
def test_what_is_put_elsewhere_is_recorded_anew(change: Callable[[PixelGAN], Any], recorder: Called) -> None:
    class Change(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                change(pl_module)

    recorded = []
    for callbacks in ([], [Change()]):
        model = tiny(**GAUSSIAN)
        model.cuda_graphs, recorder.recorded = True, 0
        fit(model, batches(12, labelled=False), callbacks=callbacks, log_every_n_steps=0)
        recorded.append(recorder.recorded)
    assert recorded == [1, 2]


def test_reasons_that_show_before_the_training(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(**GAUSSIAN)
    model.cuda_graphs = True
    fit(model, batches(1, labelled=False))
    assert "cuda_graphs: steps run one operation at a time, the device is cpu" in caplog.text

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, *_: Any) -> None:
            pass

    class OnGPU(PixelGAN):
        device = torch.device("cuda", 0)

    model = tiny(prior=Gaussian(2))
    model.__class__ = OnGPU
    model.trainer = trainer(callbacks=[Norms()])
    assert why_not(model) == "Norms has on_before_optimizer_step"
    model.trainer = trainer(devices=2, strategy="ddp")
    assert why_not(model) == "strategy=DDPStrategy is not that of a single device"
    model.trainer = trainer()
    assert why_not(model) is None
