"""Nothing is copied to the GPU and nothing waits for it, seen without one: on tensors that only say where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakecuda import Transfers
from torch._subclasses.fake_tensor import FakeTensorMode

from pixelgan_lightning.augmentations import Augmentation, Chain, RandomAffine, RandomApply, RandomColour
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.datamodules.loaders import EvalLoader, TrainLoader, _permutation, place
from pixelgan_lightning.priors import (
    Categorical,
    Gaussian,
    GaussianMixture,
    NoCode,
    Prior,
    ProductPrior,
    SwissRoll,
    Uniform,
)
from pixelgan_lightning.random import RowDraws

PRIORS = [
    Categorical(5), Gaussian(3), GaussianMixture(), NoCode(), SwissRoll(), Uniform(2),
    ProductPrior([Categorical(4), Gaussian(2)]),
]  # fmt: skip


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield
    _permutation.cache_clear()


def where(batch: dict[str, Any]) -> set[str]:
    """The devices of all tensors of a batch."""
    parts = [part if isinstance(part, dict) else {name: part} for name, part in batch.items()]
    return {tensor.device.type for part in parts for tensor in part.values()}


@pytest.mark.parametrize(
    "augmentation",
    [lambda: None, RandomAffine, lambda: Chain([RandomApply(RandomAffine()), RandomColour()])],
    ids=["as they are", "affine", "chain"],
)
def test_training_batches_are_made_on_the_gpu(fake: None, augmentation: Callable[[], Augmentation | None]) -> None:
    images = torch.zeros(100, 1, 8, 8, dtype=torch.uint8, device="cuda")
    labels = torch.zeros(100, dtype=torch.int64)
    loader = TrainLoader(
        images, torch.arange(90), 20, levels=17, dynamic=True, labels=labels, labelled=torch.arange(30),
        labelled_batch_size=10, neighbours=torch.zeros(90, 3, dtype=torch.int64), augmentation=augmentation(),
    )  # fmt: skip
    batches = iter(loader)
    next(batches)  # brings the order of the epoch
    with Transfers() as transfers:
        assert [where(batch) for batch in batches] == [{"cuda"}] * 3
    assert transfers.seen == []


def test_evaluation_batches_are_made_on_the_gpu(fake: None) -> None:
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8, device="cuda")
    loader = EvalLoader(images, torch.zeros(50, dtype=torch.int64), torch.arange(40), 20, levels=17)
    with Transfers() as transfers:
        assert [where(batch) for batch in loader] == [{"cuda"}] * 2
    assert transfers.seen == []


def test_images_go_where_there_is_room(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(1000, dtype=torch.uint8)
    for free, device in ((2000, "cuda"), (1999, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert place(images, torch.device("cuda", 0)).device.type == device
    assert place(images, torch.device("cpu")) is images


def test_a_data_module_follows_its_trainer(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the GPU and, with the trainer's end, back; with loader processes training images stay in the CPU's memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    given = torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64)
    for workers, trained_on in ((0, "cuda"), (2, "cpu")):
        module = DigitsDataModule(batch_size=10, binarization="dynamic", num_workers=workers)
        module._sources = {"train": given, "test": given}
        monkeypatch.setattr(module, "split_indices", lambda split: torch.arange(50))
        loaders = {"train": module.train_dataloader, "val": module.val_dataloader, "test": module.test_dataloader}
        assert {loader().images.device.type for loader in loaders.values()} == {"cpu"}
        module.trainer = SimpleNamespace(
            global_rank=0, world_size=1, overfit_batches=0, current_epoch=0,
            strategy=SimpleNamespace(root_device=torch.device("cuda", 0)),
        )  # fmt: skip
        devices = {name: loader().images.device.type for name, loader in loaders.items()}
        assert devices == {"train": trained_on, "val": "cuda", "test": "cuda"}
        assert module.val_dataloader().images is module.val_dataloader().images
        module.teardown("fit")
        assert not module._on_device


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_priors_are_drawn_on_the_gpu(fake: None, prior: Prior) -> None:
    draws = RowDraws(0, 1, rank=1, world_size=2, device="cuda")
    with Transfers() as transfers:
        codes = prior.keyed(draws, "prior", 6)
        if prior.num_components is not None:
            codes, components = prior.keyed_with_components(draws, "prior", 6)
            assert components.device.type == "cuda"
        noise = draws.normal("noise", 6, 3)
    assert codes.shape == (6, prior.code_dim)
    assert codes.device.type == noise.device.type == "cuda"
    assert transfers.seen == []


def test_a_transfer_would_be_seen(fake: None) -> None:
    with Transfers() as transfers:
        torch.zeros(3).cuda()
        torch.zeros(3, device="cuda").cpu()
        torch.zeros(3, device="cuda").new_tensor([1.0, 2.0])
        torch.zeros(3, device="cuda").new_tensor(1.0)
        torch.zeros(3, device="cuda") * torch.tensor(1.0)  # no copy: an argument
    assert len(transfers.seen) == 4
    with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
        torch.zeros(3, device="cuda").sum().item()
