"""A part of any family from outside the package is one file and one line of YAML: it trains, tests, draws, reloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import external_parts
import numpy as np
import pytest
import torch
import yaml
from commandline import SMALL, all_phases, pixelgan
from torch.testing import assert_close

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.configuration.classes import COMPONENTS
from pixelgan_lightning.decoders import GatedPixelCNN, draw_uniforms, sample_by_full_passes
from pixelgan_lightning.likelihoods import Likelihood

CHECKPOINT = Path("run/checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def outside(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"external_parts.{name}", "init_args": init_args}


GAUSSIAN = {"prior": {"class_path": "Gaussian"}}
# What to write into a configuration for a part from outside; everything else is as in small.yaml.
PARTS: dict[str, dict[str, Any]] = {
    "prior": {"model": {"prior": outside("Cross")}},
    "posterior": {"model": {**GAUSSIAN, "posterior": outside("Shaken", scale=0.2)}},
    "encoder": {"model": {"encoder": outside("Profile")}},
    "decoder": {"model": {"decoder": outside("LeftNeighbour", width=5)}},
    "likelihood": {"model": {"likelihood": outside("Binomial", levels=17)}},
    "discriminator": {"model": {"discriminator": outside("Quadratic")}},
    "augmentation": {
        "model": {"augmentation": outside("Mirror"), "phases": all_phases()},
        "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 32, "augmentation": outside("Mirror")}},
    },
    "data": {"data": outside("Stripes", batch_size=20, num_labelled=4, labelled_batch_size=4)},
    "callback": {"trainer": {"callbacks": [outside("InkOfSamples", number=4)]}},
}
TOGETHER = {
    "model": {name: PARTS[name]["model"][name] for name in COMPONENTS},
    "data": outside("Stripes", batch_size=20),
    "trainer": PARTS["callback"]["trainer"],
}


def test_every_family_is_here() -> None:
    assert {*COMPONENTS, "data", "callback"} == set(PARTS)


def fit(config: dict[str, Any]) -> PixelGAN:
    """Train as a user would: the configuration is written to a file that names the parts."""
    Path("mine.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    pixelgan("fit", "--config", SMALL, "--config", "mine.yaml", "--run_dir", "run")
    model = PixelGAN.load_from_checkpoint(CHECKPOINT, map_location="cpu", weights_only=True)
    for family, part in config.get("model", {}).items():
        if isinstance(part, dict) and str(part.get("class_path")).startswith("external_parts."):
            assert type(getattr(model, family)).__module__ == external_parts.__name__
            assert getattr(model, family).describe() == part
    return model


PAPERS = all_phases(agreement=None, classification=None)


@pytest.mark.parametrize("step", ["sequential", "fused"])
def test_a_phase_from_outside_is_one_line(step: str) -> None:
    """It moves the encoder by its own loss, which is logged like those of the package."""
    confidence = {"class_path": "external_parts.Confidence", "init_args": {"lr": 0.001, "strength": 2.0}}
    model = fit({"model": {"phases": {**PAPERS, "confidence": confidence}, "step": step}})
    assert list(model.phases) == [*PAPERS, "confidence"]
    assert model.phases["confidence"].strength == 2.0
    assert "train/confidence" in Path("run/fit/metrics.csv").read_text()


def test_a_phase_from_outside_may_keep_its_optimizer_to_itself() -> None:
    """What its constructor does not take is not stored for it either."""
    own = {"class_path": "external_parts.FixedRate", "init_args": {"strength": 2.0}}
    fit({"model": {"phases": {**PAPERS, "own": own}}})
    phase = PixelGAN.load_from_checkpoint(CHECKPOINT).phases["own"]
    assert (phase.strength, phase.optimizer.lr) == (2.0, 1e-4)
    pixelgan("test", "--ckpt_path", CHECKPOINT, "--allow", external_parts.__name__)


@pytest.mark.parametrize("family", PARTS)
def test_a_part_from_outside_is_one_line(family: str) -> None:
    model = fit(PARTS[family])
    assert model.image_shape == ((1, 6, 8) if family == "data" else (1, 8, 8))
    assert ("val/ink" in Path("run/fit/metrics.csv").read_text()) == (family == "callback")


def test_parts_from_outside_go_together() -> None:
    model = fit(TOGETHER)
    allow = ["--allow", external_parts.__name__]
    pixelgan("test", "--ckpt_path", CHECKPOINT, *allow)
    assert json.loads(Path("run/results.json").read_text())["test/ink"] > 0
    pixelgan("sample", "--ckpt_path", CHECKPOINT, "--out", "out.npz", "--num", 2)
    pixelgan("complete", "--ckpt_path", CHECKPOINT, "--out", "rest.npz", "--rows", 3, "--num", 2, "--draws", 1, *allow)
    with np.load("out.npz") as drawn, np.load("rest.npz") as completed:
        model.likelihood.check(torch.from_numpy(drawn["images"]))
        np.testing.assert_array_equal(completed["images"][:, 0, :, :3], completed["inputs"][:, :, :3])


@torch.no_grad()
def test_the_likelihood_from_outside_is_more_than_a_stand_in() -> None:
    """It sums to one, and our decoder draws from it by its fast sampler too."""
    likelihood: Likelihood = external_parts.Binomial(4)
    levels = torch.arange(4).double().view(4, 1, 1, 1) / 3
    total = likelihood.log_prob(torch.full((4, 1, 1, 1), 0.3).double(), levels).exp().sum()
    assert_close(total.item(), 1.0, rtol=0, atol=1e-6)
    torch.manual_seed(0)
    decoder = GatedPixelCNN(4, layers=1, first_kernel=3).build((1, 3, 4), 2, likelihood).double()
    z = torch.randn(5, 2).double()
    uniforms = draw_uniforms(decoder, 5, torch.Generator().manual_seed(0), z)
    assert torch.equal(decoder.sample(z, uniforms), sample_by_full_passes(decoder, z, uniforms))
