"""The moving average: numbers, pictures, checkpoints and exports speak of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from tinymodel import tiny_model
from torch import Tensor, nn

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.callbacks import ExponentialMovingAverage, RunCheckpoint
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.errors import ConfigurationError

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    limits = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 1}
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **limits, **options})


def data() -> DigitsDataModule:
    return DigitsDataModule(batch_size=32)


def copied(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: State, other: State) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


class Watch(pl.Callback):
    """The weights behind each batch, in each validation and in each test."""

    def __init__(self) -> None:
        self.trained: list[State] = []
        self.validated: list[State] = []
        self.tested: list[State] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.trained.append(copied(pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated.append(copied(pl_module))

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.tested.append(copied(pl_module))


def saved(name: str = "checkpoints/last.ckpt") -> dict[str, Any]:
    return dict(torch.load(name, weights_only=True))


def test_before_it_begins_the_average_is_the_weights() -> None:
    model, watch = tiny_model(), Watch()
    trainer(ExponentialMovingAverage(0.9, update_starting_at_step=4), watch, RunCheckpoint()).fit(model, data())
    assert same(watch.validated[-1], watch.trained[-1])
    assert same(saved()["state_dict"], watch.trained[-1])
    assert same(copied(model), watch.trained[-1])
    assert not saved()["pixelgan_lightning"]["averaged"]


def test_it_begins_as_the_weights_and_is_what_is_measured_saved_and_left() -> None:
    model, watch = tiny_model(), Watch()
    run = trainer(ExponentialMovingAverage(0.75, update_starting_at_step=2), watch, RunCheckpoint())
    run.fit(model, data())
    expected = {
        name: 0.75 * watch.trained[2][name].double() + 0.25 * value.double()
        for name, value in watch.trained[3].items()
        if value.is_floating_point()
    }
    content = saved()
    for state in (watch.validated[-1], content["state_dict"], copied(model)):
        for name, value in expected.items():
            torch.testing.assert_close(state[name].double(), value, rtol=1e-6, atol=1e-7)
    assert same(content["current_model_state"], watch.trained[-1])
    assert content["pixelgan_lightning"]["averaged"]
    run.save_checkpoint("after.ckpt")  # the weights are still known after the end
    assert same(saved("after.ckpt")["state_dict"], content["state_dict"])
    assert same(saved("after.ckpt")["current_model_state"], content["current_model_state"])


@pytest.mark.parametrize("ckpt_path", ["checkpoints/last.ckpt", None])
def test_a_test_in_the_same_trainer_tests_what_a_fresh_one_does(ckpt_path: str | None) -> None:
    model, watch, fresh = tiny_model(), Watch(), Watch()
    run = trainer(ExponentialMovingAverage(0.5), watch, RunCheckpoint())
    run.fit(model, data())
    numbers = run.test(model, data(), ckpt_path=ckpt_path, verbose=False)
    assert numbers == trainer(fresh).test(tiny_model(), data(), ckpt_path="checkpoints/last.ckpt", verbose=False)
    assert same(watch.tested[0], fresh.tested[0])
    assert same(watch.tested[0], watch.validated[-1])
    assert not same(watch.tested[0], watch.trained[-1])


def test_validations_leave_the_training_weights_as_they_were_to_the_bit() -> None:
    with_average, without = Watch(), Watch()
    often: dict[str, Any] = {"val_check_interval": 1}
    trainer(ExponentialMovingAverage(0.9), with_average, RunCheckpoint(), **often).fit(tiny_model(), data())
    trainer(without, **often).fit(tiny_model(), data())
    assert len(with_average.validated) == len(without.validated) > 4
    assert all(map(same, with_average.trained, without.trained))


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_fit_in_two_parts_equals_the_fit_in_one(start: int) -> None:
    def fit(steps: int, folder: str, last: str | None = None) -> None:
        average = ExponentialMovingAverage(0.9, update_starting_at_step=start)
        trainer(average, RunCheckpoint(folder), max_epochs=-1, max_steps=steps).fit(
            tiny_model(), data(), ckpt_path=last
        )

    fit(5, "one")
    fit(2, "two")
    fit(5, "two", "two/last.ckpt")
    one, two = saved("one/last.ckpt"), saved("two/last.ckpt")
    for key in ("state_dict", "current_model_state"):
        assert same(one[key], two[key])
    assert not same(one["state_dict"], one["current_model_state"])


def test_a_second_fit_of_a_trainer_goes_on_with_the_weights() -> None:
    with_average, without = Watch(), Watch()
    at_once = {"num_sanity_val_steps": 0}
    for run in (trainer(ExponentialMovingAverage(0.9), with_average, **at_once), trainer(without, **at_once)):
        model = tiny_model()
        run.fit(model, data())
        run.fit_loop.max_epochs = 2
        run.fit(model, data())
    assert len(with_average.trained) == 8
    assert all(map(same, with_average.trained, without.trained))


def test_shared_weights_are_swapped_once() -> None:
    model = nn.Module()
    model.one = nn.Linear(2, 2)
    model.other = model.one
    before = copied(model)
    average = ExponentialMovingAverage()
    average._other = {name: value + 1 for name, value in before.items()}
    with average.in_model(model):  # type: ignore[arg-type]
        assert torch.equal(model.one.weight, before["one.weight"] + 1)
        with average.in_model(model):  # type: ignore[arg-type]
            assert torch.equal(model.one.weight, before["one.weight"] + 1)
    assert same(copied(model), before)


def test_the_average_lives_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a model goes to a GPU after the callbacks are set up."""
    places: list[tuple[torch.device, torch.device]] = []
    model = tiny_model()
    monkeypatch.setattr(
        PixelGAN, "state_dict", lambda self: {"w": torch.zeros(2, device="meta"), "n": torch.zeros((), device="meta")}
    )
    average = ExponentialMovingAverage()
    average._other = {"w": torch.zeros(2), "n": torch.zeros(())}
    average.on_train_start(trainer(), model)
    places += [(value.device, torch.device("meta")) for value in average._other.values()]
    assert all(one == other for one, other in places)


def another_average() -> None:
    trainer(EMAWeightAveraging()).fit(tiny_model(), data())


def two_averages() -> None:
    trainer(ExponentialMovingAverage(), ExponentialMovingAverage(0.5)).fit(tiny_model(), data())


def without_the_average() -> None:
    trainer(ExponentialMovingAverage(), RunCheckpoint()).fit(tiny_model(), data())
    trainer(max_epochs=2).fit(tiny_model(), data(), ckpt_path="checkpoints/last.ckpt")


def of_lightnings_average() -> None:
    trainer(RunCheckpoint()).fit(tiny_model(), data())
    content = {**saved(), "current_model_state": saved()["state_dict"], "averaging_state": {}}
    torch.save(content, "old.ckpt")
    trainer(ExponentialMovingAverage(), enable_checkpointing=False).test(
        tiny_model(), data(), ckpt_path="old.ckpt", verbose=False
    )
    trainer(ExponentialMovingAverage(), max_epochs=2).fit(tiny_model(), data(), ckpt_path="old.ckpt")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (another_average, r"callbacks=\['EMAWeightAveraging'\] is not usable: allowed is one ExponentialMovingAverage"),
        (two_averages, "allowed is one ExponentialMovingAverage"),
        (without_the_average, "do not continue a run that averages its weights"),
        (of_lightnings_average, "allowed are test, sample and export"),
        (lambda: ExponentialMovingAverage(1.0), r"decay=1\.0 is not usable"),
        (lambda: ExponentialMovingAverage(0.9, -1), "update_starting_at_step=-1 is not usable"),
    ],
)
def test_what_is_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run()
