"""The meeting with the real lightning-bolts; skipped where it is not installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import SMALL, load_step, pixelgan
from pytorch_lightning.loggers import TensorBoardLogger
from realformats import write_mnist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases import DiscriminatorPhase, ReconstructionPhase
from pixelgan_lightning.priors import Gaussian

INSTALLED = importlib.util.find_spec("pl_bolts") is not None
pytestmark = [
    pytest.mark.filterwarnings("ignore:The feature"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
needs_bolts = pytest.mark.skipif(not INSTALLED, reason="lightning-bolts is not installed: see docs/bolts.md")

if INSTALLED:
    from pixelgan_lightning.bolts import BoltsDataModule, LinearWarmupCosine, pl_bolts


def small_model(shape: tuple[int, int, int] = (1, 8, 8), **arguments: Any) -> PixelGAN:
    parts: dict[str, Any] = {
        "prior": Gaussian(2),
        "encoder": ConvEncoder(channels=[8], num_features=16),
        "decoder": GatedPixelCNN(channels=4, layers=1, first_kernel=3),
    }
    return PixelGAN(shape, 10, **(parts | arguments))


def small_trainer(folder: Path, **options: Any) -> pl.Trainer:
    defaults = {"logger": False, "max_steps": 4, "limit_val_batches": 0}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **{**defaults, **quiet, **options})


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how to install it."""
    if INSTALLED:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="lightning-bolts is not installed: pip install --no-deps"):
        importlib.import_module("pixelgan_lightning.bolts").import_bolts()


@needs_bolts
def test_why_there_is_a_bridge() -> None:
    """Today's pytorch-lightning has no such file; if it gets one, the bridge can go."""
    folders = importlib.import_module("pytorch_lightning.utilities").__path__
    assert importlib.machinery.PathFinder.find_spec("pytorch_lightning.utilities.apply_func", folders) is None
    assert "pytorch_lightning.utilities.apply_func" in sys.modules


def test_the_names_that_bolts_knows(tmp_path: Path) -> None:
    """They are there, before and after a checkpoint, and not in it."""
    model = small_model()
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(model, DigitsDataModule(binarization="threshold"))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert not {"latent_dim", "img_dim"} & set(stored)
    for each in (model, PixelGAN.load_from_checkpoint(tmp_path / "a.ckpt")):
        assert each.hparams["latent_dim"] == 2
        assert each.hparams["img_dim"] == [1, 8, 8]


@needs_bolts
def test_latent_interpolator(tmp_path: Path) -> None:
    """Its picture is what ``forward`` draws at its grid of codes."""
    model, logger = small_model(), TensorBoardLogger(tmp_path, name="", version="log")
    callback = pl_bolts.callbacks.LatentDimInterpolator(
        interpolate_epoch_interval=1, range_start=-1, range_end=1, steps=2, normalize=False
    )
    trainer = small_trainer(
        tmp_path, logger=logger, callbacks=[callback], max_steps=-1, max_epochs=1, limit_train_batches=1
    )
    trainer.fit(model, DigitsDataModule(binarization="threshold"))
    (event,) = EventAccumulator(str(tmp_path / "log"), {"images": 0}).Reload().Images("PixelGAN_latent_space")
    assert (event.height, event.width) == (2 * 10 + 2, 2 * 10 + 2)  # two images of 8 pixels, a margin of 2
    images = callback.interpolate_latent_space(model, model.hparams["latent_dim"])
    assert model.training
    corner = model(torch.tensor([[-1.0, 1.0]] * 2))[:1]  # it draws two and shows the first
    assert torch.equal(images[1], corner)


@needs_bolts
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedule(warmup: int, tmp_path: Path) -> None:
    """The rates in training are those that the scheduler itself gives when it is stepped."""
    settings = LinearWarmupCosine(lr=0.01, warmup_steps=warmup, final_lr_factor=0.1)
    phase = DiscriminatorPhase()
    phase.optimizer = settings
    model = small_model(phases={"reconstruction": ReconstructionPhase(), "discriminator": phase})
    assert model.hparams["phases"]["discriminator"]["init_args"]["schedule"] == "cosine"
    rates: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[1].param_groups[0]["lr"])

    small_trainer(tmp_path, callbacks=[Watch()], max_steps=8).fit(model, DigitsDataModule(binarization="threshold"))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = pl_bolts.optimizers.LinearWarmupCosineAnnealingLR(optimizer, warmup, 8, eta_min=0.001)
    expected = []
    for step in range(8):
        # With its number, as stepping without it stays near 0 for ever where there is no warm-up.
        scheduler.step(step)
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)
    assert max(rates) == pytest.approx(0.01)


@needs_bolts
def test_unusable_schedules() -> None:
    with pytest.raises(ConfigurationError, match="warmup_steps=1 is not usable"):
        LinearWarmupCosine(warmup_steps=1)
    for total in (float("inf"), 5):
        with pytest.raises(ConfigurationError, match="warmup_steps=5 with"):
            LinearWarmupCosine(warmup_steps=5).factor(0, total)


@needs_bolts
class TestData:
    def module(self, folder: Path, **arguments: Any) -> Any:
        write_mnist(folder)
        return pl_bolts.datamodules.MNISTDataModule(str(folder), val_split=50, **arguments)

    def test_batches_are_its_images(self, tmp_path: Path) -> None:
        theirs = self.module(tmp_path)
        data = BoltsDataModule(theirs, batch_size=25)
        data.setup("fit")
        assert sorted(data.split_indices("train").tolist()) == sorted(theirs.dataset_train.indices)
        assert sorted(data.split_indices("val").tolist()) == sorted(theirs.dataset_val.indices)
        for batch in (next(iter(data.train_dataloader()))["unlabelled"], next(iter(data.val_dataloader()))):
            for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
                torch.testing.assert_close(image, theirs.dataset_train.dataset[index][0])
        assert sum(len(batch["image"]) for batch in data.test_dataloader()) == 60

    def test_trains_from_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_mnist(tmp_path)
        monkeypatch.chdir(tmp_path)
        module = {"class_path": "pl_bolts.datamodules.MNISTDataModule", "init_args": {"data_dir": ".", "val_split": 50}}
        data = {"class_path": "pixelgan_lightning.bolts.BoltsDataModule", "init_args": {"module": module, "levels": 17}}
        Path("bolts.yaml").write_text(yaml.safe_dump({"data": data}))
        pixelgan("fit", "--config", SMALL, "--config", "bolts.yaml", "--run_dir", "run")
        assert load_step(Path("run")) == 2

    def test_unusable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="module=DigitsDataModule is not usable"):
            BoltsDataModule(DigitsDataModule())
        with pytest.raises(ConfigurationError, match="normalize=False"):
            BoltsDataModule(self.module(tmp_path, normalize=True)).setup("fit")


@needs_bolts
def test_what_docs_call_broken_is_broken(tmp_path: Path) -> None:
    """If one of these starts to work, docs/bolts.md is out of date."""
    sampler = pl_bolts.callbacks.TensorboardGenerativeModelImageSampler()
    logger = TensorBoardLogger(tmp_path, name="", version="log")
    trainer = small_trainer(
        tmp_path, logger=logger, callbacks=[sampler], max_steps=-1, max_epochs=1, limit_train_batches=1
    )
    with pytest.raises(TypeError, match="range"):
        trainer.fit(small_model(), DigitsDataModule(binarization="threshold"))
    for module in ("pl_bolts.models.rl", "pl_bolts.models.detection"):
        with pytest.raises(ImportError):
            importlib.import_module(module)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = pl_bolts.optimizers.LinearWarmupCosineAnnealingLR(optimizer, warmup_epochs=0, max_epochs=8)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 1e-6  # half way down a cosine from 1 it should be 0.5
