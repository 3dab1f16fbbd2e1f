"""What holds on a CPU holds on a GPU. Skipped where there is none; ``make gpu`` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tinymodel import tiny_model
from torch import Tensor

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN, Known, draw_uniforms, incremental, sample_by_full_passes
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture, Likelihood
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
    [{}, {"step": "fused"}, {"augmentation": RandomAffine(), "agree": True}],
    ids=["sequential", "fused", "agreement"],
)
def test_training_on_the_gpu_is_training_on_the_cpu(tmp_path: Path, arguments: dict[str, Any]) -> None:
    on_cpu = trained(tmp_path, "cpu", **arguments)
    on_gpu = trained(tmp_path, "cuda", **arguments)
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], value, atol=2e-3, rtol=1e-2, msg=lambda text, n=name: f"{n}: {text}")


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
def test_a_graph_draws_what_single_operations_draw(
    likelihood: Likelihood, bias: Any, recwarn: pytest.WarningsRecorder
) -> None:
    decoder, z, uniforms = decoder_and_draws(3, likelihood, bias=bias)
    images = torch.rand(16, 3, 9, 7, device="cuda").round()
    first_rows = torch.arange(9)[:, None].expand(-1, 7) < 4
    recordings: list[object] = []

    def record(work: Callable[[], None]) -> Callable[[], object]:
        replay = incremental.recorded(work)
        recordings.append(replay)
        return replay

    for known in (None, Known(images, first_rows), Known(images, torch.rand(9, 7) < 0.5)):
        plain = incremental._Sampler(decoder, decoder.code_map(z), uniforms, 0.8, known)
        graph = incremental._Sampler(decoder, decoder.code_map(z), uniforms, 0.8, known)
        with torch.no_grad():
            assert torch.equal(graph.draw(record), plain.draw())
        assert torch.equal(decoder.sample(z, uniforms, 0.8, known), plain.images.permute(2, 3, 0, 1))
    assert [type(replay.__self__) for replay in recordings] == [torch.cuda.CUDAGraph] * 3  # type: ignore[attr-defined]
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
    assert torch.rand(1, device="cuda").isfinite()  # the generator is as it was


def test_samples_and_importance_weights_need_no_help_with_devices() -> None:
    model = tiny_model(prior=Gaussian(2)).cuda()
    assert model.sample(4).device.type == "cuda"
    assert model.complete(torch.zeros(2, 1, 8, 8, device="cuda"), 3).shape == (2, 1, 8, 8)
