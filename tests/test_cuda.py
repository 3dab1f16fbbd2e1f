"""What holds on a CPU holds on a GPU. Skipped where there is none; ``make gpu`` runs them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_captured import CASES, FromTheHost
from test_captured import trained as trained_in_tiny
from test_deterministic import PARTS, train
from test_model import GAUSSIAN, batches, loader, phases, state, tiny, trainer
from tinymodel import tiny_model
from torch import Tensor

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN, Known, draw_uniforms, sample_by_full_passes
from pixelgan_lightning.decoders.incremental import sample_incrementally
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture, Likelihood
from pixelgan_lightning.numerics.cuda_graphs import CUDAGraphs
from pixelgan_lightning.phases import ReconstructionPhase
from pixelgan_lightning.priors import Gaussian

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
]


@pytest.fixture(autouse=True)
def _exact() -> Any:
    """Without TF32, so that bounds are those of float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def trained(folder: Path, accelerator: str, steps: int = 4, **arguments: Any) -> dict[str, torch.Tensor]:
    """The state of a tiny model after a few steps on digits with labels, on the CPU."""
    trainer = pl.Trainer(
        max_steps=steps, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    model = tiny_model(**arguments)
    data = DigitsDataModule(batch_size=32, num_labelled=20, labelled_batch_size=20, binarization="none")
    trainer.fit(model.double(), data) if accelerator == "cpu64" else trainer.fit(model, data)
    return {name: value.cpu() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "arguments",
    [{}, {"step": "fused"}, {"augmentation": RandomAffine(), "phases": phases()}],
    ids=["sequential", "fused", "agreement"],
)
def test_training_on_the_gpu_is_training_on_the_cpu(tmp_path: Path, arguments: dict[str, Any]) -> None:
    on_cpu = trained(tmp_path, "cpu", **arguments)
    on_gpu = trained(tmp_path, "cuda", **arguments)
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], value, atol=2e-3, rtol=1e-2, msg=lambda text, n=name: f"{n}: {text}")


class Looks(ReconstructionPhase):
    """A phase for which the host waits in every step."""

    def loss(self, *args: Any) -> torch.Tensor:
        loss = super().loss(*args)
        return loss if loss.item() > 0 else -loss


class NoWaiting(pl.Callback):
    """Whatever waits for the device in a step that is not logged fails, once everything is set up."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= 6:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each replay of a graph."""
    seen: list[int] = []
    record = CUDAGraphs.record

    def counted(self: CUDAGraphs, function: Any) -> Any:
        replay = record(self, function)
        return lambda: (seen.append(1), replay())

    monkeypatch.setattr(CUDAGraphs, "record", counted)
    return seen


@pytest.mark.parametrize("step", ["sequential", "fused"])
@pytest.mark.parametrize("case", CASES)
def test_graphs_do_the_same_steps(case: str, step: str, replays: list[int]) -> None:
    """In float64: learning rates have the precision of float32 in a graph."""
    arguments, data = CASES[case]
    plain, graphs = (
        trained_in_tiny({**arguments, "step": step}, data, captured, average=True, accelerator="cuda")
        for captured in (False, True)
    )
    assert len(replays) >= 8
    for name, value in plain[0].items():
        torch.testing.assert_close(graphs[0][name], value, atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
    assert len(graphs[2]) == len(plain[2])
    for mine, theirs in zip(graphs[2], plain[2], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"compiled": True}], ids=["bf16", "compiled"])
def test_graphs_in_half_precision_and_of_compiled_decoders(
    options: dict[str, Any], replays: list[int], tmp_path: Path
) -> None:
    compiled, ends = options.pop("compiled", False), []
    for cuda_graphs in (False, True):
        model = tiny_model(step="fused")
        model.cuda_graphs = cuda_graphs
        if compiled:
            model.decoder.compile()
        trainer = pl.Trainer(
            max_steps=12, accelerator="cuda", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
            **options,
        )  # fmt: skip
        trainer.fit(model, DigitsDataModule(batch_size=32, num_labelled=20, labelled_batch_size=20))
        ends.append({name: value.float().cpu() for name, value in model.state_dict().items()})
    assert len(replays) >= 8
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=2e-3, rtol=2e-2, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("cuda_graphs", [False, True], ids=["eager", "graphs"])
def test_no_step_waits_for_the_device(cuda_graphs: bool, replays: list[int], tmp_path: Path) -> None:
    model = tiny_model(augmentation=RandomAffine(), phases=phases())
    model.cuda_graphs = cuda_graphs
    trainer = pl.Trainer(
        max_steps=20, accelerator="cuda", devices=1, logger=False, enable_checkpointing=False, callbacks=[NoWaiting()],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, DigitsDataModule(batch_size=32, num_labelled=20, labelled_batch_size=20))
    assert trainer.global_step == 20
    assert len(replays) == (18 if cuda_graphs else 0)


def test_a_run_with_graphs_is_continued_exactly(replays: list[int], tmp_path: Path) -> None:
    data = batches(6, labelled=False)
    try:
        whole = trained_in_tiny(GAUSSIAN, data, True, accelerator="cuda", max_epochs=2, deterministic=True)[0]
        for epochs in (1, 2):
            model = tiny(**GAUSSIAN)
            model.cuda_graphs = True
            run = trainer(max_epochs=epochs, accelerator="cuda", deterministic=True)
            run.fit(model, loader(data), ckpt_path=tmp_path / "one.ckpt" if epochs == 2 else None)
            run.save_checkpoint(tmp_path / "one.ckpt")
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(replays) > 12
    for name, value in whole.items():
        assert torch.equal(state(model)[name], value), name


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"phases": {**phases("discriminator", "generator"), "reconstruction": Looks()}}, "the host waits"),
        ({"prior": FromTheHost()}, "come from a generator of the CPU"),
    ],
    ids=["item", "generator"],
)
def test_what_a_graph_cannot_do_runs_without(
    arguments: dict[str, Any], reason: str, replays: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    data = batches(6, labelled=False)
    ends = [trained_in_tiny({**GAUSSIAN, **arguments}, data, g, accelerator="cuda")[0] for g in (False, True)]
    assert not replays
    assert reason in caplog.text
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-6, rtol=0)


def test_codes_and_likelihoods_are_those_of_the_cpu() -> None:
    model, x = tiny_model(), torch.randint(0, 17, (8, 1, 8, 8)) / 16
    codes, log_prob = model.encode(x), model.log_prob(x)
    model.cuda()
    torch.testing.assert_close(model.encode(x.cuda()).cpu(), codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.log_prob(x.cuda()).cpu(), log_prob, atol=1e-3, rtol=1e-5)


LIKELIHOODS = [Bernoulli(), CategoricalLevels(5), DiscretizedLogisticMixture(2, levels=5)]
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda one: type(one).__name__)


def decoder_and_draws(colours: int, likelihood: Likelihood, **options: Any) -> tuple[GatedPixelCNN, Tensor, Tensor]:
    """A decoder of images ``[9, 7]``, codes and draws of 16 images."""
    torch.manual_seed(0)
    decoder = GatedPixelCNN(8, layers=2, dilations=[1, 2], **options).build((colours, 9, 7), 2, likelihood).cuda()
    z = torch.randn(16, 2, device="cuda")
    return decoder, z, draw_uniforms(decoder, 16, torch.Generator().manual_seed(1), z)


@every_likelihood
@pytest.mark.parametrize("colours", [1, 3])
def test_the_sampler_draws_what_full_passes_draw(colours: int, likelihood: Likelihood) -> None:
    decoder, z, uniforms = decoder_and_draws(colours, likelihood)
    drawn = decoder.sample(z, uniforms)
    expected = sample_by_full_passes(decoder, z, uniforms)
    assert (drawn == expected).float().mean() > 0.98  # a draw beside a rounded border may fall on its other side
    assert torch.equal(decoder.sample(z, uniforms), drawn)


@every_likelihood
@pytest.mark.parametrize("bias", ["location_invariant", "location_dependent"])
@torch.no_grad()
def test_a_graph_draws_what_single_operations_draw(
    likelihood: Likelihood, bias: Any, recwarn: pytest.WarningsRecorder
) -> None:
    decoder, z, uniforms = decoder_and_draws(3, likelihood, bias=bias)
    images = torch.rand(16, 3, 9, 7, device="cuda").round()
    first_rows = torch.arange(9)[:, None].expand(-1, 7) < 4
    for known in (None, Known(images, first_rows), Known(images, torch.rand(9, 7) < 0.5)):
        plain = sample_incrementally(decoder, z, uniforms, 0.8, known, graph=False)
        assert torch.equal(decoder.sample(z, uniforms, 0.8, known), plain)
    assert not [warning for warning in recwarn if "CUDA graph" in str(warning.message)]


class Waiting(Bernoulli):
    """A likelihood that asks the device for a value, which a CUDA graph cannot do."""

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        assert params.isfinite().all()
        return super().sample(params, uniforms, temperature)


def test_where_a_graph_is_not_possible_the_operations_are_called() -> None:
    decoder, z, uniforms = decoder_and_draws(1, Waiting())
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        drawn = decoder.sample(z, uniforms)
    decoder.likelihood = Bernoulli()
    assert torch.equal(decoder.sample(z, uniforms), drawn)


def test_samples_and_importance_weights_need_no_help_with_devices() -> None:
    model = tiny_model(prior=Gaussian(2)).cuda()
    assert model.sample(4).device.type == "cuda"
    assert model.complete(torch.zeros(2, 1, 8, 8, device="cuda"), 3).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", PARTS)
def test_deterministic_training_is_the_same_twice(name: str, tmp_path: Path) -> None:
    try:
        runs = [train(tmp_path, "cuda", name, deterministic=True) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    for (weights, images), (again, images_again) in itertools.pairwise(runs):
        assert not [name for name, value in weights.items() if not torch.equal(value, again[name])]
        assert all(torch.equal(one, other) for one, other in zip(images, images_again, strict=True))
