"""Callbacks beside others of their kind, and on priors that are not the usual ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from test_model import CLASSES, batches, images, loader, tiny
from torch import Tensor

from pixelgan_lightning.callbacks import ClusterAccuracy, StopOnSignal
from pixelgan_lightning.callbacks.arguments import has_density
from pixelgan_lightning.posteriors import CategoricalPosterior, DeterministicPosterior, ProductPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, Prior, ProductPrior

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class Coin(Prior):
    """Two codes that are no categories."""

    code_dim = 1

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2, (n, 1), generator=generator).float()

    def enumerate(self) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.0], [1.0]]), torch.full((2,), 0.5, dtype=torch.float64).log()


def test_more_codes_than_categories_have_no_divergence_of_categories(tmp_path: Path) -> None:
    """The weights of the codes are not those of the categories."""
    model = tiny(
        prior=ProductPrior([Categorical(CLASSES), Coin()]),
        posterior=ProductPosterior([CategoricalPosterior(), DeterministicPosterior()]),
    )
    data = [{"image": images(6, 0), "label": torch.arange(6) % CLASSES, "index": torch.arange(6)}]
    run = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=ClusterAccuracy(),
    )
    (logged,) = run.validate(model, loader(data), verbose=False)
    assert "val/categories_used" in logged
    assert "val/marginal_kl" not in logged


class Centred(Gaussian):
    """Its density needs a tensor of its own, on a device."""

    def __init__(self, device: str) -> None:
        super().__init__(2)
        self.register_buffer("centre", torch.zeros(2, device=device))

    def log_prob(self, z: Tensor) -> Tensor:
        return super().log_prob(z - self.get_buffer("centre"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_whether_a_prior_has_a_density_is_asked_on_its_device(device: str) -> None:
    assert has_density(Centred(device))
    assert not has_density(Coin())


def test_a_signal_writes_to_the_folder_of_the_checkpoints_whatever_the_order(tmp_path: Path) -> None:
    model = tiny()
    after = model.on_train_batch_start

    def interrupted(batch: object, batch_idx: int) -> None:
        after(batch, batch_idx)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)

    model.on_train_batch_start = interrupted  # type: ignore[method-assign]
    run = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[StopOnSignal(), ModelCheckpoint(tmp_path / "checkpoints")],
    )
    with pytest.raises(SystemExit):
        run.fit(model, loader(batches(3)))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.ckpt")] == ["checkpoints/last.ckpt"]
