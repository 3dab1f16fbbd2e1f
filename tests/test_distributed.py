"""Two processes on a CPU with gloo: what they do is what one process does with the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from commandline import SMALL
from processes import free_port, start_as_ranks, start_ranks, wait
from test_model import CATEGORICAL, CLASSES, GAUSSIAN, batches, close, loader, phases, state, tiny, trainer
from tinymodel import tiny_model
from torch import Tensor

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.callbacks import ClusterAccuracy, InformationDecomposition, MarginalLikelihood
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.datamodules.base import Split
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.posteriors import CategoricalPosterior, ImplicitPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, GaussianMixture, ProductPrior, SwissRoll, Uniform

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]

DDP = "ddp"
STEPS = ("sequential", "fused")
NOISY = MLPDiscriminator([8], code_noise=0.3)
CASES: dict[str, tuple[dict[str, Any], bool]] = {  # arguments, with labels
    "categorical, agreement": (CATEGORICAL, False),
    "categorical, agreement, labels": (CATEGORICAL, True),
    "drawn one-hot codes": ({**CATEGORICAL, "posterior": CategoricalPosterior(straight_through="sample")}, True),
    "gaussian": (GAUSSIAN, False),
    "swiss roll": ({"prior": SwissRoll(), "discriminator": NOISY, "augmentation": RandomAffine()}, False),
    "uniform, implicit": ({"prior": Uniform(2), "posterior": ImplicitPosterior()}, False),
    "mixture": ({"prior": GaussianMixture(CLASSES), "discriminator": NOISY}, False),
    "mixture, the discriminator sees labels": (
        {
            "prior": GaussianMixture(CLASSES),
            "discriminator": MLPDiscriminator([8], code_noise=0.3, label_aware=True),
            "phases": phases("reconstruction", "discriminator", "generator"),
        },
        True,
    ),
    "product": ({"prior": ProductPrior([Categorical(CLASSES), Gaussian(2)])}, True),
    "clipping": ({**CATEGORICAL, "phases": phases(reconstruction={"clip_norm": 0.05})}, True),
    "labels first": ({**CATEGORICAL, "phases": phases(classification={"alone": 2})}, True),
    "agreement first": ({**CATEGORICAL, "phases": phases(agreement={"alone": 2})}, True),
    "few reconstructions": ({**CATEGORICAL, "phases": phases(reconstruction={"images": 6})}, True),
}


def part_of(data: Sequence[dict[str, Any]], rank: int, size: int) -> list[dict[str, Any]]:
    """The rows of every batch that one of ``size`` processes has."""
    return [
        {part: {name: value.chunk(size)[rank] for name, value in rows.items()} for part, rows in batch.items()}
        for batch in data
    ]


def trained(case: str, step: str, rank: int = 0, size: int = 1) -> dict[str, Tensor]:
    arguments, labelled = CASES[case]
    model = tiny(**arguments, step=step)
    run = trainer(devices=size, strategy=DDP if size > 1 else "auto", use_distributed_sampler=False)
    run.fit(model, loader(part_of(batches(4, size=8, labelled=labelled), rank, size)))
    return state(model)


def sent(step: str, rank: int) -> dict[str, float]:
    """By name, messages between two processes in a step of all five phases; those of a start do not count."""
    numbers = []
    for steps in (2, 4):
        model = tiny(**CATEGORICAL, step=step)
        run = trainer(devices=2, strategy=DDP, use_distributed_sampler=False)
        with torch.profiler.profile() as profile:
            run.fit(model, loader(part_of(batches(steps, size=8), rank, 2)))
        numbers.append({event.key: event.count for event in profile.key_averages() if event.key.startswith("c10d::")})
    return {name: (number - numbers[0].get(name, 0)) / 2 for name, number in numbers[1].items()}


class Uneven(DigitsDataModule):
    """13 images for validation, 11 for tests: two processes differ in their images, and in their batches of two."""

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        return super().split_rule(split, labels)[: {"train": 64, "val": 13, "test": 11}[split]]


def measured(size: int = 1) -> dict[str, float]:
    """All numbers of a validation and a test."""
    model = tiny_model()
    callbacks: list[pl.Callback] = [ClusterAccuracy(), MarginalLikelihood(splits=["val", "test"])]
    callbacks.append(InformationDecomposition(max_images=5))
    run = trainer(devices=size, strategy=DDP if size > 1 else "auto", callbacks=callbacks)
    data = Uneven(eval_batch_size=2)
    numbers: dict[str, float] = {}
    for evaluate in (run.validate, run.test):
        evaluate(model, datamodule=data, verbose=False)
        numbers |= {name: float(value) for name, value in run.callback_metrics.items()}
    return numbers


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank, what two processes have trained and measured, all in one go: starting them is what takes time."""
    folder = tmp_path_factory.mktemp("ranks")

    def run(rank: int) -> None:
        models = {(case, step): trained(case, step, rank, 2) for step in STEPS for case in CASES}
        messages = {step: sent(step, rank) for step in STEPS}
        torch.save({"models": models, "numbers": measured(2), "messages": messages}, f"{rank}.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        status = [wait(pid, timeout=120) for pid in start_as_ranks(2, run)]
    assert status == [0, 0], (folder / "rank0").read_text()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case: str, step: str, ranks: list[dict[str, Any]]) -> None:
    """Weights and running statistics, by Adam, up to the order of a sum."""
    one = trained(case, step)
    for rank in range(2):
        two = ranks[rank]["models"][case, step]
        assert set(one) == set(two)
        for name, value in one.items():
            close(two[name], value, atol=1e-12)
    start = state(tiny(**CASES[case][0], step=step))
    assert not [name for name, value in one.items() if torch.equal(value, start[name])]


@pytest.mark.parametrize(
    ("step", "encoder", "agreement", "gradients"),
    # The tiny model has three normalisations; the discriminator's pass has no way back. The fused pass makes codes and
    # logits, so its last normalisation runs twice.
    [("sequential", 4 * 2 * 3 + 3, 2, 5), ("fused", 2 * 4, 2, 2)],
)
def test_messages_of_a_step(
    step: str, encoder: int, agreement: int, gradients: int, ranks: list[dict[str, Any]]
) -> None:
    """One each way for each normalisation of a pass, one for the gradients of each optimizer, and no others."""
    for rank in range(2):
        messages = {name: number for name, number in ranks[rank]["messages"][step].items() if number}
        assert messages.pop("c10d::broadcast_") <= 1  # DDP's, of the running statistics, which are the same anyway
        assert messages == {"c10d::allreduce_": encoder + agreement + gradients}


def test_numbers_are_those_of_all_images(ranks: list[dict[str, Any]]) -> None:
    one = measured()
    for rank in range(2):
        assert ranks[rank]["numbers"] == pytest.approx(one, rel=1e-5, abs=1e-7, nan_ok=True)
    for split in ("val", "test"):
        for name in (
            "reconstruction",
            "cluster_accuracy",
            "nmi",
            "ari",
            "code_entropy",
            "categories_used",
            "bits_per_dim",
        ):
            assert f"{split}/{name}" in one


def test_torchrun_trains_what_other_processes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that torchrun starts, and two that are there without it. Lightning's own start: test_configs.py."""
    monkeypatch.chdir(tmp_path)
    flags = ["--trainer.strategy", DDP, "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    fit = ["fit", "--config", SMALL, "--data.num_labelled", 20, "--data.labelled_batch_size", 5, *flags]
    fit += ["--trainer.limit_val_batches", 0]
    assert [wait(pid) for pid in start_ranks(2, *fit, "--run_dir", "forked")] == [0, 0], Path("rank0").read_text()
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "-m", "pixelgan_lightning.cli", *map(str, fit), "--run_dir", "torchrun"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("run folder:") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"forked", "torchrun", "rank0", "rank1"}
    one, other = (torch.load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("forked", "torchrun"))
    assert one["global_step"] == other["global_step"] == 2
    torch.testing.assert_close(other["state_dict"], one["state_dict"], rtol=0, atol=0)
    for mine, theirs in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        torch.testing.assert_close(theirs["state"], mine["state"], rtol=0, atol=0)
        assert theirs["param_groups"] == mine["param_groups"]
