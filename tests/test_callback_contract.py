"""What every callback promises beside any kind of code. A new one joins by being listed here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from tinymodel import tiny_model
from torch import Tensor

from pixelgan_lightning import PixelGAN, callbacks
from pixelgan_lightning.callbacks import (
    ClusterAccuracy,
    ExponentialMovingAverage,
    InformationDecomposition,
    LatentScatter,
    MarginalLikelihood,
    PredictionTable,
    RunCheckpoint,
    SampleGrid,
    StopOnSignal,
)
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.datamodules.base import Source
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.posteriors import GaussianPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, NoCode

pytestmark = pytest.mark.filterwarnings("ignore:.*overridden by the latest")

BOTH = ["val", "test"]
CALLBACKS: dict[type[pl.Callback], Callable[[], pl.Callback]] = {
    ClusterAccuracy: lambda: ClusterAccuracy(),
    SampleGrid: lambda: SampleGrid(columns=2, max_rows=2, reconstructions=1, manifold_side=2),
    LatentScatter: lambda: LatentScatter(max_images=20),
    MarginalLikelihood: lambda: MarginalLikelihood(3, splits=BOTH, num_samples=2),
    InformationDecomposition: lambda: InformationDecomposition(3, num_samples=2, splits=BOTH),
    PredictionTable: lambda: PredictionTable(),
    StopOnSignal: lambda: StopOnSignal(),
    RunCheckpoint: lambda: RunCheckpoint(),
    ExponentialMovingAverage: lambda: ExponentialMovingAverage(update_starting_at_step=2),
}
MODELS: dict[str, Callable[[], PixelGAN]] = {
    "categorical": lambda: tiny_model(Categorical(10)),
    "gaussian": lambda: tiny_model(Gaussian(2), posterior=GaussianPosterior()),
    "no_code": lambda: tiny_model(NoCode()),
}

REFUSED = {(LatentScatter, "no_code"), (ClusterAccuracy, "no_code"), (ClusterAccuracy, "gaussian")}
"""What cannot be watched."""


class Digits(DigitsDataModule):
    """The first class has lost its labels."""

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        images, labels = super().load_split(source)
        return images, torch.where(labels == 0, -1, labels)


class Outcome(NamedTuple):
    """What a run leaves behind; the random stream is the global one."""

    weights: dict[str, Tensor]
    stream: Tensor
    modes: list[bool]
    logged: list[dict[str, float]]
    states: dict[str, Any]


def run(folder: Path, model: PixelGAN, *extra: pl.Callback) -> Outcome:
    """Two steps with a validation, two tests, a prediction."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        limit_test_batches=1,
        limit_predict_batches=1,
        num_sanity_val_steps=1,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in extra),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(extra),
    )
    data = Digits(batch_size=20, eval_batch_size=20)
    torch.manual_seed(3)
    trainer.fit(model.train(), data)
    stream = torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    states = {callback.state_key: callback.state_dict() for callback in extra}
    logged = [dict(trainer.test(model, data, verbose=False)[0]) for _ in range(2)]
    trainer.predict(model, data, return_predictions=False)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    return Outcome(weights, stream, modes, logged, states)


@pytest.fixture(scope="module", params=MODELS)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Outcome]:
    """A kind of model, and what comes of it without any callback."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = run(folder, MODELS[request.param]())
    assert list(folder.iterdir()) == []
    return request.param, outcome


def test_every_callback_is_listed() -> None:
    public = [value for name in callbacks.__all__ if inspect.isclass(value := getattr(callbacks, name))]
    assert {cls for cls in public if not inspect.isabstract(cls)} == set(CALLBACKS)


@pytest.mark.parametrize("kind", CALLBACKS, ids=lambda cls: cls.__name__)
def test_it_watches_and_changes_nothing_or_refuses_before_training(
    kind: type[pl.Callback], alone: tuple[str, Outcome], tmp_path: Path
) -> None:
    name, without = alone
    model = MODELS[name]()
    if (kind, name) in REFUSED:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(ConfigurationError, match=f"prior={type(model.prior).__name__}.*allowed are") as caught:
            run(tmp_path, model, CALLBACKS[kind]())
        assert "\n" not in str(caught.value)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert list(tmp_path.iterdir()) == []
        return
    outcome = run(tmp_path, model, CALLBACKS[kind]())
    assert outcome.weights.keys() == without.weights.keys()
    for key, value in without.weights.items():
        assert torch.equal(outcome.weights[key], value), key
    assert torch.equal(outcome.stream, without.stream)
    assert outcome.modes == without.modes
    first, second = outcome.logged
    assert first == second
    assert {key: first[key] for key in without.logged[0]} == without.logged[0]
    torch.save(outcome.states, tmp_path / "states.pt")
    torch.load(tmp_path / "states.pt", weights_only=True)  # as a checkpoint holds them
