"""Mixed precision, values that are not finite, and averaged weights."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from commandline import SMALL, pixelgan, refused
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pixelgan_lightning import PixelGAN
from pixelgan_lightning import random as draws
from pixelgan_lightning.callbacks import ExponentialMovingAverage, SampleGrid
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError, NonFiniteError
from pixelgan_lightning.model import THE_PAPERS
from pixelgan_lightning.numerics.normalization import BatchNorm, running_statistics
from pixelgan_lightning.posteriors import GaussianPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, Prior
from pixelgan_lightning.training.gradients import Gradients

pytestmark = pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")


def small(**arguments: Any) -> PixelGAN:
    torch.manual_seed(0)
    parts = {
        "encoder": ConvEncoder([4], 6),
        "decoder": GatedPixelCNN(4, layers=1),
        "discriminator": MLPDiscriminator([8]),
    }
    return PixelGAN((1, 8, 8), 10, **{**parts, **arguments})


def digits(**arguments: Any) -> DigitsDataModule:
    labels = {"num_labelled": 20, "labelled_batch_size": 10}
    return DigitsDataModule(**{"batch_size": 16, "binarization": "threshold", **labels, **arguments})


def fit(model: PixelGAN, folder: Path, **arguments: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    defaults = {"max_steps": 3, "enable_checkpointing": False, "default_root_dir": folder, "accelerator": "cpu"}
    trainer = pl.Trainer(**{**quiet, **defaults, **arguments})
    trainer.fit(model, digits())
    return trainer


# --------------------------------------------------------------------------------------------------------- precision


def test_bf16_keeps_the_losses_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.dtype] = {}
    features: list[torch.dtype] = []
    model = small()
    monkeypatch.setattr(model, "log", lambda name, value, **_: seen.update({name: value.dtype}))
    model.decoder.register_forward_hook(lambda module, args, output: features.append(output.dtype))
    fit(model, tmp_path, precision="bf16-mixed", log_every_n_steps=1)
    assert set(features) == {torch.bfloat16}
    assert set(seen) == {f"train/{name}" for name in (*THE_PAPERS, "discriminator_real", "discriminator_fake")}
    assert set(seen.values()) == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("products", ["high", "highest"])
@pytest.mark.parametrize("prior", [Categorical(3), Gaussian(2)], ids=["exact", "sampled"])
def test_likelihoods_are_computed_without_tf32(prior: Prior, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And training goes on with it where it was allowed."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", products == "high")
    before = torch.get_float32_matmul_precision()
    model = small(prior=prior, posterior=GaussianPosterior() if isinstance(prior, Gaussian) else None)
    seen: list[tuple[str, bool]] = []

    def look(*_: Any) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    model.decoder.register_forward_pre_hook(look)
    x = torch.rand(2, 1, 8, 8).round()
    try:
        torch.set_float32_matmul_precision(products)
        model.importance_log_prob(x, num_samples=2) if isinstance(prior, Gaussian) else model.log_prob(x)
        assert set(seen) == {("highest", False)}
        look()
        assert seen[-1] == (products, products == "high")
    finally:
        torch.set_float32_matmul_precision(before)


def test_bf16_likelihoods_are_float32_sums_of_what_the_decoder_says() -> None:
    model = small().eval()
    x = torch.rand(8, 1, 8, 8).round()
    z = model.prior.sample(8, torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.decoder(x, z)
        log_prob = model.reconstruct(x, z)
    assert logits.dtype == torch.bfloat16
    exact = -nn.functional.binary_cross_entropy_with_logits(logits.double(), x.double(), reduction="none")
    torch.testing.assert_close(log_prob.double(), exact.flatten(1).sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", ["16-mixed", "16", "16-true", "bf16-true"])
def test_half_precision_is_refused(
    precision: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "fit", "--config", SMALL, "--trainer.precision", precision)
    assert line == f"precision={precision} is not usable: allowed are bf16-mixed, 32 and 64"
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_refused_without_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="precision=16-true is not usable"):
        fit(small(), tmp_path, precision="16-true")


# -------------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize(
    ("phase", "parameter"),
    [
        ("reconstruction", lambda model: model.decoder.head.params.bias),
        ("discriminator", lambda model: next(model.discriminator.parameters())),
        ("classification", lambda model: next(model.posterior.parameters())),
    ],
)
def test_a_gradient_that_is_not_finite_stops_before_it_is_used(phase: str, parameter: Any, tmp_path: Path) -> None:
    model = small(phases={name: cls(alone=9 * (name == phase == "classification")) for name, cls in THE_PAPERS.items()})
    victim = parameter(model)

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * math.nan if model.global_step == 2 else gradient

    victim.register_hook(spoil)
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, save_last=True)
    message = rf"the norm of the gradient of the {phase} phase is nan at step 2 \(batch 2 of epoch 0\)"
    with pytest.raises(NonFiniteError, match=message):
        fit(model, tmp_path, max_steps=5, callbacks=[saving], enable_checkpointing=True)
    good = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert good["global_step"] == 2
    assert all(value.isfinite().all() for value in good["state_dict"].values())
    assert victim.isfinite().all()


@pytest.mark.parametrize("step", ["sequential", "fused"])
@pytest.mark.parametrize("save_on_exception", [False, True])
@pytest.mark.parametrize("found_by", ["row of the logs", "checkpoint", "validation", "end of the epoch"])
def test_where_looking_takes_time_nothing_of_a_bad_step_is_kept(
    found_by: str, save_on_exception: bool, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the optimizer moves with the bad gradient before anybody looks."""
    monkeypatch.setattr(Gradients, "looking_is_free", False)
    model = small(step=step)
    victim = model.decoder.head.params.bias
    victim.register_hook(lambda gradient: gradient * math.nan if model.global_step == 2 else gradient)
    watched: list[int] = []
    monkeypatch.setattr(PixelGAN, "validation_step", lambda self, batch, batch_idx: watched.append(self.global_step))
    every = 1 if found_by == "checkpoint" else 2
    saving = ModelCheckpoint(
        tmp_path,
        "{step}",
        every_n_train_steps=every,
        save_top_k=-1,
        save_last=True,
        save_on_exception=save_on_exception,
    )
    options: dict[str, Any] = {"log_every_n_steps": 1 if found_by == "row of the logs" else 100}
    options["max_steps"] = 3 if found_by == "end of the epoch" else 5
    if found_by == "validation":
        options |= {"limit_val_batches": 1, "val_check_interval": 3}
    with pytest.raises(
        NonFiniteError, match=r"gradient of the reconstruction phase is nan at step 2 \(batch 2 of epoch"
    ):
        fit(model, tmp_path, callbacks=[saving], enable_checkpointing=True, num_sanity_val_steps=0, **options)
    assert not victim.isfinite().all()
    assert watched == []
    good = sorted(tmp_path.glob("*.ckpt"))
    assert [path.name for path in good] == ["last.ckpt", *(f"step={n}.ckpt" for n in (1, 2) if n % every == 0)]
    for path in good:
        content = torch.load(path, weights_only=True)
        assert content["global_step"] == 2 or path.name == "step=1.ckpt"
        assert all(value.isfinite().all() for value in content["state_dict"].values())


class Reads(TorchDispatchMode):
    """Counts where Python asks for the value of a tensor, which on a GPU waits for everything before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # Two kinds of tensors are on the CPU everywhere: Adam's count of its steps, and random draws.
            files = [frame.filename for frame in traceback.extract_stack()]
            self.count += not any("torch/optim/" in file or file == draws.__file__ for file in files)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", ["sequential", "fused"])
@pytest.mark.parametrize("free", [True, False])
def test_a_step_asks_for_no_value(step: str, free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gradients, "looking_is_free", free)
    looks: list[int] = []
    require_finite, training_step = Gradients.require_finite, PixelGAN.training_step
    monkeypatch.setattr(
        Gradients, "require_finite", lambda self: looks.append(self.module.global_step) or require_finite(self)
    )
    reads: list[int] = []

    def counted(self: PixelGAN, batch: Any, batch_idx: int) -> None:
        with Reads() as mode:
            training_step(self, batch, batch_idx)
        reads.append(mode.count)

    monkeypatch.setattr(PixelGAN, "training_step", counted)
    clipped = ("reconstruction", "discriminator") if step == "fused" else ("reconstruction", "generator")
    phases = {name: cls(clip_norm=1.0 if name in clipped else None) for name, cls in THE_PAPERS.items()}
    fit(small(step=step, phases=phases), tmp_path, max_steps=5, log_every_n_steps=3)
    assert reads == [0] * 5
    if not free:
        assert looks == [2, 5]  # the third batch has a row in the logs; the end


def test_a_loss_that_is_not_finite_ends_the_command_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PixelGAN, "reconstruct", lambda self, x, z: self.encoder(x).sum(1) * math.inf)
    with pytest.raises(SystemExit) as exit_:
        pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    assert exit_.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the loss of the reconstruction phase is ")
    assert "at step 0 (batch 0 of epoch 0)" in last


# --------------------------------------------------------------------------------------------------- averaged weights


def vector(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


@pytest.mark.parametrize("start", [0, 2])
def test_averaged_weights_equal_the_closed_form_and_are_what_is_measured_and_drawn(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    used: dict[str, Tensor] = {}

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            trained.append(vector(pl_module))

    def note(name: str) -> None:
        original = getattr(PixelGAN, name)

        def replaced(self: PixelGAN, *args: Any, **kwargs: Any) -> Any:
            used[name] = vector(self)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(PixelGAN, name, replaced)

    note("validation_step")
    note("sample")
    saving = ModelCheckpoint(tmp_path, save_last=True)
    average = ExponentialMovingAverage(decay=0.9, update_starting_at_step=start)
    callbacks = [SampleGrid(columns=1, max_rows=1, reconstructions=0), Record(), average, saving]
    limits = {"max_steps": -1, "max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 1}
    model = small()
    fit(model, tmp_path, callbacks=callbacks, enable_checkpointing=True, **limits)

    # The first average is the weights where it begins; then a_t = 0.9 a_{t-1} + 0.1 w_t.
    assert len(trained) == 4
    expected, *later = [weights.double() for weights in trained[start:]]
    for weights in later:
        expected = 0.9 * expected + 0.1 * weights
    for name, weights in {**used, "the end": vector(model)}.items():
        torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-7, msg=name)
    assert set(used) == {"validation_step", "sample"}
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    names = [name for name, _ in model.named_parameters()]
    for key, weights in (("state_dict", expected), ("current_model_state", trained[-1].double())):
        stored = torch.cat([content[key][name].flatten() for name in names])
        torch.testing.assert_close(stored.double(), weights, rtol=1e-5, atol=1e-7)


def test_running_statistics_nest() -> None:
    layer = BatchNorm(2)
    with running_statistics(layer):
        with running_statistics(layer, layer):
            assert layer.tracking
        assert layer.tracking
    assert not layer.tracking
