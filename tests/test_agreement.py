"""Agreement between views, and the warm-up that finds categories before labels name them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from test_model import CLASSES, PHASES, around_phases, batches, close, fit, phases, state, tiny
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases import Phase
from pixelgan_lightning.phases.agreement import class_order, pair_information
from pixelgan_lightning.posteriors import ProductPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, ProductPrior
from pixelgan_lightning.training.averaging import ExponentialMovingAverage

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def first(steps: int, **settings: dict[str, Any]) -> dict[str, Phase]:
    """All phases, the agreement alone for some batches."""
    return phases(**{"agreement": {"alone": steps}, **settings})


class TestPairInformation:
    def test_of_confident_balanced_pairs_is_log_k(self) -> None:
        q = torch.eye(4).double().repeat(3, 1)
        close(pair_information(q, q).item(), math.log(4))

    def test_of_unrelated_pairs_is_zero(self) -> None:
        pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))
        one, two = (torch.eye(3).double()[column] for column in pairs.T)
        close(pair_information(one, two).item(), 0.0)

    def test_of_one_category_for_all_is_zero(self) -> None:
        q = torch.eye(3).double()[[1, 1, 1]]
        close(pair_information(q, q).item(), 0.0, atol=1e-6)


class TestClassOrder:
    def test_is_the_best_of_all_assignments(self) -> None:
        counts = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
        order = class_order(counts)
        assert sorted(order.tolist()) == list(range(5))
        value = counts[range(3), order[:3]].sum()
        for other in itertools.permutations(range(5), 3):
            assert value >= counts[range(3), list(other)].sum()

    @pytest.mark.parametrize("kind", ["categorical", "product"])
    def test_reorder_permutes_the_logits_in_both_modes(self, kind: str) -> None:
        prior = Categorical(4) if kind == "categorical" else ProductPrior([Gaussian(2), Categorical(4)])
        model = tiny(prior=prior, num_classes=4)
        assert isinstance(model.posterior, ProductPosterior) == (kind == "product")
        features, order = torch.randn(9, 6).double(), torch.tensor([2, 0, 3, 1])
        for module in (model.train(), model.eval()):
            before = module.posterior.logits(features)
            module.posterior.reorder(order)
            close(module.posterior.logits(features), before[:, order])

    def test_reorder_without_categories(self) -> None:
        with pytest.raises(ConfigurationError, match="has no categories"):
            tiny(prior=Gaussian(2)).posterior.reorder(torch.arange(2))


class TestWarmup:
    def test_runs_the_agreement_only_and_then_everything(self) -> None:
        model, seen = tiny(phases=first(2)), []
        around_phases(model, lambda phase, run: (run(), seen.append((model.global_step, phase)))[0])
        fit(model, batches(3))
        assert seen == [(0, "agreement"), (1, "agreement"), *[(2, phase) for phase in PHASES]]

    def test_moves_the_running_statistics(self) -> None:
        model = tiny(phases=first(2))
        before = {name: value for name, value in state(model).items() if name.endswith("running_mean")}
        fit(model, batches(1))
        assert before
        assert not any(torch.equal(state(model)[name], value) for name, value in before.items())

    def test_labels_name_the_categories(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Categories that were found in another order are put into that of the classes, once, at its end."""
        names: list[Tensor] = []
        model = tiny(phases=first(1), num_classes=CLASSES)
        data = batches(3, size=30)
        reorder = model.posterior.reorder
        monkeypatch.setattr(model.posterior, "reorder", lambda order: (names.append(order), reorder(order)))
        found: list[Tensor] = []
        run_phase = model.step.run_phase

        def and_then_label(*args: Any, **kwargs: Any) -> None:
            """Labels of the next batch: the categories, as they are now, in another order."""
            run_phase(*args, **kwargs)
            if not found:
                beside = torch.cat([data[1]["labelled"]["image"], data[1]["unlabelled"]["image"]])
                with torch.no_grad():
                    category = model.posterior.logits(model.encoder(beside))[:30].argmax(1)
                found.append(category)
                data[1]["labelled"]["label"].copy_(torch.tensor([1, 2, 0])[category])

        monkeypatch.setattr(model.step, "run_phase", and_then_label)
        fit(model, data)
        assert len(found[0].unique()) == CLASSES
        assert [order.tolist() for order in names] == [[2, 0, 1]]

    def test_averaged_weights_get_the_names_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise the average would mix categories of the old order with those of the new."""
        still: dict[str, dict[str, Any]] = {name: {"lr": 1e-15} for name in PHASES}
        still["agreement"]["alone"] = 1
        model = tiny(phases=phases(**still))
        before = model.posterior.linear.weight.detach().clone()
        monkeypatch.setattr("pixelgan_lightning.phases.agreement.class_order", lambda counts: torch.tensor([2, 0, 1]))
        fit(model, batches(3), callbacks=ExponentialMovingAverage(decay=0.9))
        close(model.posterior.linear.weight.detach(), before[[2, 0, 1]])

    def test_what_optimizers_remember_of_the_old_order_is_forgotten(self) -> None:
        model = tiny(phases=first(1))
        counted = []
        around_phases(
            model,
            lambda phase, run: (
                run(),
                counted.append(
                    [
                        int(model.trainer.optimizers[PHASES.index("agreement")].state[p]["step"])
                        for p in (model.posterior.linear.weight, model.encoder.layers[0].weight)
                    ]
                    if phase == "agreement"
                    else None
                ),
            )[0],
        )
        fit(model, batches(2))
        assert [c for c in counted if c] == [[1, 1], [1, 2]]


def test_neighbours_are_counted_from_none() -> None:
    with pytest.raises(ConfigurationError, match=r"neighbour_steps=-1 .* >= 0"):
        phases(agreement={"neighbour_steps": -1})
