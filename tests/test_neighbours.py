"""Images that look alike: finding them, handing them out, and the agreement phase that pairs an image with one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_datamodules import IMAGES, UNLABELLED, digits, same, train_loader
from test_model import batches, fit, phases, state, tiny

from pixelgan_lightning.datamodules.neighbours import nearest_neighbours
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases import Encoded, TrainStep

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def test_nearest_are_those_of_the_largest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelgan_lightning.datamodules.neighbours.CHUNK", 40)  # three pieces, the last one shorter
    images = torch.randint(0, 256, (103, 2, 17, 17), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    blurred = F.pad(images.double(), (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))
    coarse = F.pad(blurred, (0, 1, 0, 1), value=float("nan")).unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).nanmean(4)
    features = coarse.flatten(1) - coarse.flatten(1).mean(0)
    cosine = F.cosine_similarity(features[:, None], features[None], dim=2)
    cosine.fill_diagonal_(-2)
    assert torch.equal(nearest_neighbours(images, 4), cosine.argsort(1, descending=True)[:, :4])


def test_most_neighbours_of_real_digits_have_their_class() -> None:
    data = digits(neighbours=1)
    _, labels = data._source("train")
    train = data.split_indices("train")
    nearest = data.train_dataloader().neighbours
    assert nearest is not None
    assert (labels[train][nearest[:, 0]] == labels[train]).double().mean() > 0.95


@pytest.mark.parametrize("dynamic", [False, True])
def test_batches_come_with_one_of_the_neighbours(dynamic: bool) -> None:
    neighbours = torch.stack([torch.arange(100).roll(7), torch.arange(100).roll(-3)], 1)
    loader = train_loader(neighbours=neighbours, dynamic=dynamic)
    seen = set()
    for batch in loader:
        image, index = batch["unlabelled"]["neighbour"], batch["unlabelled"]["index"]
        assert image.shape == batch["unlabelled"]["image"].shape
        candidates = UNLABELLED[neighbours[index - UNLABELLED[0]]]
        if dynamic:  # drawn with the neighbour's grey values as probabilities: impossible pixels never come
            possible = [((image == 1) <= (IMAGES[candidates[:, i]] > 0)).flatten(1).all(1) for i in range(2)]
            assert (possible[0] | possible[1]).all()
            continue
        matches = [(image == IMAGES[candidates[:, i]].float() / 16).flatten(1).all(1) for i in range(2)]
        assert (matches[0] ^ matches[1]).all()
        seen |= set(matches[0].tolist())
    assert dynamic or seen == {True, False}


def test_two_processes_draw_the_neighbours_of_one() -> None:
    neighbours = torch.randint(0, 100, (100, 5), generator=torch.Generator().manual_seed(2))
    one = train_loader(neighbours=neighbours)
    two = [
        train_loader(neighbours=neighbours, batch_size=8, labelled_batch_size=7, rank=rank, world_size=2)
        for rank in range(2)
    ]
    joined = [
        {s: {k: torch.cat([left[s][k], right[s][k]]) for k in left[s]} for s in left}
        for left, right in zip(*two, strict=True)
    ]
    assert same(list(one), joined)


@pytest.mark.parametrize("number", [-1, 1197])
def test_numbers_that_there_cannot_be_are_refused(number: int) -> None:
    with pytest.raises(ConfigurationError, match=f"neighbours={number} is not usable"):
        digits(neighbours=number)


def with_neighbours(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for batch in data:
        batch["unlabelled"]["neighbour"] = 1 - batch["unlabelled"]["image"]
    return data


@pytest.mark.parametrize("step", ["sequential", "fused"])
def test_agreement_pairs_neighbours_first_and_views_afterwards(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(step=step, phases=phases(agreement={"neighbour_steps": 2}))
    seen: list[tuple[int, bool, bool]] = []
    data = with_neighbours(batches(3))
    agreement = model.phases["agreement"]
    loss = agreement.loss

    def watch(model_: Any, encoded: dict[str, Encoded], step: TrainStep) -> torch.Tensor:
        one, two = encoded.values()
        batch = data[step.number]["unlabelled"]
        assert torch.equal(one.images, batch["image"])
        seen.append((step.number, torch.equal(two.images, batch["neighbour"]), torch.equal(two.images, batch["image"])))
        return loss(model_, encoded, step)

    monkeypatch.setattr(agreement, "loss", watch)
    fit(model, data)
    assert seen == [(0, True, False), (1, True, False), (2, False, True)]


def test_data_without_neighbours_are_refused_before_a_step() -> None:
    model = tiny(phases=phases(agreement={"neighbour_steps": 1}))
    before = state(model)
    with pytest.raises(
        ConfigurationError, match=r"phases\.agreement is not usable with batches without neighbour images"
    ):
        fit(model, batches(2))
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
