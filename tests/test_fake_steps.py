"""No step of any configuration copies from the host, waits for the GPU or mixes devices, seen without a GPU.

The tensors only say where they are. Everything of a step is run but the backward pass, which they do not have.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import pixelgan
from fakecuda import Transfers
from test_configs import WHOLE, name_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.commands import trainer
from pixelgan_lightning.datamodules.loaders import TrainLoader, _permutation
from pixelgan_lightning.phases import TrainStep
from pixelgan_lightning.random import RowDraws


def made(files: list[Path], *more: object) -> tuple[PixelGAN, Any]:
    """Model and data of configurations that are stacked, as the command line makes them; no data are read."""
    seen: list[tuple[PixelGAN, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_go", lambda _, __, model, data, ___: seen.append((model, data)))
        pixelgan("fit", *(word for file in files for word in ("--config", file)), *more, "--run_dir", "run")
    return seen[0]


def move_to_fake_gpu(module: nn.Module) -> None:
    """In place; within a ``FakeTensorMode``."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            empty = torch.empty_like(torch.empty(p.shape, dtype=p.dtype, device="cuda"))
            setattr(part, name, nn.Parameter(empty, requires_grad=p.requires_grad))
        for name, b in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(b.shape, dtype=b.dtype, device="cuda"))


class NoBackward:
    """Stands for Lightning's module in :class:`~pixelgan_lightning.training.gradients.Gradients`."""

    def __init__(self, model: PixelGAN) -> None:
        self.model, self.device, self.global_step, self.current_epoch = model, torch.device("cuda", 0), 0, 0
        progress = SimpleNamespace(current=SimpleNamespace(ready=1))
        self.trainer = SimpleNamespace(
            strategy=SimpleNamespace(optimizer_step=lambda optimizer, closure: optimizer.step()),
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )

    def manual_backward(self, loss: Tensor) -> None:
        assert loss.requires_grad
        assert loss.device.type == "cuda"
        for p in self.model.parameters():
            if p.requires_grad:
                p.grad = torch.zeros_like(p)


def transfers(model: PixelGAN, data: Any, numbers: list[int]) -> list[str]:
    """What passes between devices in batches and steps."""
    settings = data.hparams if "batch_size" in data.hparams else vars(data)
    labelled, neighbours = settings.get("num_labelled"), settings.get("neighbours")
    rows, batch = 4 * settings["batch_size"], settings["batch_size"]
    with FakeTensorMode():
        move_to_fake_gpu(model)
        model.gradients.module = NoBackward(model)  # type: ignore[assignment]
        optimizers = list(model.step.optimizers().values())
        loader = TrainLoader(
            torch.zeros(rows, *model.image_shape, dtype=torch.uint8, device="cuda"), torch.arange(rows), batch,
            levels=model.likelihood.levels, dynamic=settings.get("binarization") == "dynamic",
            augmentation=settings.get("augmentation"),
            labels=torch.zeros(rows, dtype=torch.int64), labelled=torch.arange(rows) if labelled else None,
            labelled_batch_size=min(rows, settings.get("labelled_batch_size") or 1),
            neighbours=torch.zeros(rows, neighbours, dtype=torch.int64) if neighbours else None,
        )  # fmt: skip
        batches = iter(loader)
        next(batches)  # brings the order of the epoch
        seen: list[str] = []
        for number in numbers:
            with Transfers() as between:
                images = loader._batch(1)
                step = TrainStep(images, number, RowDraws(model.seed, number, device="cuda"))
                sees = {name: model.phases[name].sees(model, number) for name in model._active(step)}
                model.step.run(sees, step, optimizers, 1000)
            model.zero_grad()
            assert sees
            assert not step.numbers
            seen += between.seen
    _permutation.cache_clear()
    return seen


def moments(model: PixelGAN) -> list[int]:
    """Steps that differ in what they do."""
    ends = {phase.alone for phase in model.phases.values()} | {
        getattr(phase, "neighbour_steps", 0) for phase in model.phases.values()
    }
    return sorted({0, *ends, *(end - 1 for end in ends if end)})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", WHOLE, ids=name_of)
def test_no_step_waits(path: Path) -> None:
    model, data = made([path])
    assert transfers(model, data, moments(model)) == []
