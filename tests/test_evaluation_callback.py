"""When a callback that goes over a split is called, alone and beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from test_callbacks import Categories, Data, Model, make_trainer
from torch import Tensor

from pixelgan_lightning.callbacks import ClusterAccuracy, EvaluationCallback, MarginalLikelihood
from pixelgan_lightning.errors import ConfigurationError


class Recorder(EvaluationCallback):
    """Writes down its calls, and Lightning's before and after them, in a list that several may share."""

    def __init__(self, calls: list[str], name: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.calls, self.name = calls, name

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.calls.append(f"{self.name}before")

    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        self.calls.append(f"{self.name}start {split}")

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        self.calls.append(f"{self.name}update {batch['index'].tolist()[0]}")

    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        self.calls.append(f"{self.name}finish {split}")
        pl_module.log(f"{split}/finished", 1.0)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.calls.append(f"{self.name}after")


VALIDATION = ["start val", "update 0", "update 8", "update 16", "finish val"]
TEST = ["before", "start test", "update 0", "update 8", "finish test", "after"]


def test_one_pass_per_validation_and_none_in_the_sanity_check(tmp_path: Path) -> None:
    calls: list[str] = []
    trainer = make_trainer(tmp_path, Recorder(calls), max_epochs=2, num_sanity_val_steps=2)
    trainer.fit(Model(Categories(3)), Data())
    assert calls == VALIDATION * 2
    assert trainer.callback_metrics["val/finished"] == 1


def test_hooks_of_several_callbacks_interleave(tmp_path: Path) -> None:
    calls: list[str] = []
    make_trainer(tmp_path, Recorder(calls, "a "), Recorder(calls, "b ")).test(
        Model(Categories(3)), Data(), verbose=False
    )
    assert calls == [name + call for call in TEST for name in ("a ", "b ")]


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_the_splits_asked_for(tmp_path: Path, split: str) -> None:
    calls: list[str] = []
    trainer, model = make_trainer(tmp_path, Recorder(calls, splits=[split])), Model(Categories(3))
    trainer.validate(model, Data(), verbose=False)
    trainer.test(model, Data(), verbose=False)
    assert calls == ([*VALIDATION, "before", "after"] if split == "val" else TEST)


@pytest.mark.parametrize("splits", [(), "test", ["train"]])
def test_refuses_other_splits(splits: Any) -> None:
    with pytest.raises(ConfigurationError, match="splits="):
        Recorder([], splits=splits)


def test_bayes_errors_do_not_depend_on_the_order_of_the_callbacks(tmp_path: Path) -> None:
    logged = [
        make_trainer(tmp_path, *callbacks).test(Model(Categories(3)), Data(), verbose=False)[0]
        for callbacks in ([ClusterAccuracy(), MarginalLikelihood()], [MarginalLikelihood(), ClusterAccuracy()])
    ]
    assert "test/bayes_cluster_accuracy" in logged[0]
    assert logged[0] == logged[1]
