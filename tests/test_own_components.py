"""Components that a user writes: what does not fit is refused when the model is made, by name."""

from __future__ import annotations

import copy
import math
import re
import sys
from pathlib import Path
from typing import Any, Self

import numba
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from commandline import pixelgan
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.callbacks import RunCheckpoint, StopOnSignal
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import ConvDecoder, GatedPixelCNN
from pixelgan_lightning.encoders import ConvEncoder, Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli
from pixelgan_lightning.numerics.normalization import BatchNorm, convert_batch_norm
from pixelgan_lightning.phases import ClassificationPhase, GeneratorPhase
from pixelgan_lightning.posteriors import CategoricalPosterior, DeterministicPosterior, default_posterior
from pixelgan_lightning.priors import Categorical, Gaussian, Prior, ProductPrior
from pixelgan_lightning.training.resume import DERIVED

SHAPE = (1, 8, 8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


class Flat(Encoder):
    """Pixels through a network of the user's."""

    def __init__(self, net: Any = None, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.dropout, self.norm = dropout, norm

    def build(self, image_shape: tuple[int, int, int]) -> Self:
        self.num_features = 8
        norm = nn.BatchNorm1d(8) if self.norm else nn.Identity()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), 8), norm, nn.Dropout(self.dropout))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Untold(Flat):
    def build(self, image_shape: tuple[int, int, int]) -> Self:
        super().build(image_shape)
        del self.num_features
        return self


class Short(Flat):
    def build(self, image_shape: tuple[int, int, int]) -> Self:
        super().build(image_shape)
        self.num_features = 7
        return self


class Bent(Flat):
    def __init__(self, bend: Any = torch.tanh, scale: float = 2.0) -> None:
        super().__init__()
        self.bend, self.scale = bend, scale


class Starred(Flat):
    def __init__(self, *widths: int) -> None:
        super().__init__()


class Outer:
    class Nested(Flat):
        """A checkpoint names classes by module and name."""


class PerPixel(Bernoulli):
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -nn.functional.binary_cross_entropy_with_logits(params, x, reduction="none")


class Column(Prior):
    code_dim = 2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator)


class Silent(Prior):
    code_dim = 2


class Die(Prior):
    """Categories with no word about a posterior."""

    code_dim = num_categories = 6

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return nn.functional.one_hot(torch.randint(6, (n,), generator=generator), 6).float()


class Unsized(Prior):
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, 2, generator=generator)


class Normalised(ConvDecoder):
    def build(self, *args: Any) -> Self:
        super().build(*args)
        self.norm = nn.InstanceNorm2d(4)
        return self


def model(**arguments: Any) -> PixelGAN:
    small = {
        "encoder": ConvEncoder([4], num_features=8),
        "decoder": GatedPixelCNN(channels=4, layers=1, first_kernel=3),
    }
    return PixelGAN(SHAPE, 10, **{**small, **arguments})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an argument that is code": (
        {"encoder": Flat(net=nn.Flatten())},
        r"net of Flat=Flatten\(.*\) is not usable: a check",
    ),
    "a function": ({"encoder": Flat(net=torch.tanh)}, "net of Flat=.* a checkpoint could not hold it"),
    "in a list": ({"encoder": Flat(net=[{"a": torch.float32}])}, "net of Flat=torch.float32 is not usable"),
    "arguments without names": ({"encoder": Starred(1, 2)}, r"\*widths of Starred is not usable"),
    "a class in a class": ({"encoder": Outer.Nested()}, "Nested is defined inside of Outer"),
    "no number of features": ({"encoder": Untold()}, "encoder=Untold with num_features=None is not usable"),
    "another number of features": (
        {"encoder": Short()},
        r"encoder=Short returns features of shape \(2, 8\) .* \(2, 7\)",
    ),
    "no code dimension": ({"prior": Unsized()}, "prior=Unsized with code_dim=None is not usable"),
    "samples of another shape": ({"prior": Column()}, r"prior=Column returns sample.* of shape \(2,\) .* \(2, 2\)"),
    "no samples": ({"prior": Silent()}, r"prior=Silent is not usable: .*does not define sample"),
    "nats by pixel": ({"likelihood": PerPixel()}, r"likelihood=PerPixel returns log_prob.* \(2, 1, 8, 8\) .* \(2,\)"),
    "batch normalisation": (
        {"encoder": Flat(norm=True)},
        "encoder=Flat with BatchNorm1d is not usable: .*convert_batch_norm",
    ),
    "a decoder that normalises": ({"decoder": Normalised([4])}, "decoder=Normalised with InstanceNorm2d is not usable"),
    "a code that enters nothing": ({"decoder": GatedPixelCNN(layers=0)}, "layers=0 with condition='every_layer'"),
    "a phase that is none": ({"phases": {"generator": Flat()}}, "phases.generator: phase=Flat.* allowed are a Phase"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_the_model_is_made(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(ConfigurationError, match=message):
        model(**arguments)


def test_a_class_in_a_function_is_refused() -> None:
    class Local(Flat):
        pass

    with pytest.raises(ConfigurationError, match="Local is defined inside of test_a_class"):
        model(encoder=Local())


def test_the_look_leaves_no_trace() -> None:
    """Neither the stream of random numbers nor a mode nor a buffer changes."""
    states = []
    for look in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not look:
                patch.setattr("pixelgan_lightning.model.require_contracts", lambda model: None)
            torch.manual_seed(0)
            made = model(encoder=Flat(dropout=0.5), prior=Die())
        states.append((torch.get_rng_state(), [module.training for module in made.modules()], made.state_dict()))
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]
    for name, value in states[0][2].items():
        assert torch.equal(value, states[1][2][name]), name


def test_numbers_of_numpy_are_stored_as_numbers() -> None:
    stored = Flat(net=[np.int64(7)], dropout=np.float64(0.5), norm=True).describe()["init_args"]
    assert stored == {"net": [7], "dropout": 0.5, "norm": True}
    assert [type(value) for value in (*stored["net"], stored["dropout"], stored["norm"])] == [int, float, bool]


def test_a_default_that_is_code_stays_where_it_is() -> None:
    made = model(encoder=Bent())
    assert made.hparams["encoder"]["init_args"] == {"scale": 2.0}
    assert PixelGAN(**{k: v for k, v in made.hparams.items() if k not in DERIVED}).encoder.bend is torch.tanh


def test_a_prior_over_categories_suggests_their_posterior() -> None:
    assert isinstance(default_posterior(Die()), CategoricalPosterior)
    assert model(prior=Die()).category_logits(torch.zeros(2, *SHAPE)).shape == (2, 6)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_product_within_a_product_keeps_its_categories(order: tuple[int, int]) -> None:
    factors = [ProductPrior([Gaussian(2), Gaussian(1)]), ProductPrior([Categorical(4), Gaussian(1)])]
    made = model(prior=ProductPrior([factors[i] for i in order]))
    assert made.category_logits(torch.zeros(3, *SHAPE)).shape == (3, 4)
    code = made.encode(torch.zeros(3, *SHAPE))[:, made.prior.category_slice]
    torch.testing.assert_close(code.sum(1), torch.ones(3))


# ---------------------------------------------------------------------------------------------- networks from elsewhere


class TestConvertedBatchNorm:
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=5)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.normal_(layer.running_mean)
        return net

    @pytest.mark.parametrize("training", [True, False])
    def test_computes_the_same(self, training: bool) -> None:
        net = self.network().train(training)
        converted = convert_batch_norm(copy.deepcopy(net))
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in converted.modules())
        assert sum(isinstance(layer, BatchNorm) for layer in converted.modules()) == 20
        x = torch.randn(4, 3, 32, 32)
        assert torch.equal(net(x), converted(x))

    def test_what_it_cannot_convert(self) -> None:
        for layer in (nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, track_running_stats=False)):
            with pytest.raises(ConfigurationError, match=r"BatchNorm2d.* is not usable"):
                convert_batch_norm(nn.Sequential(layer))


def test_the_documented_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = (Path(__file__).parents[1] / "docs" / "your_parts.md").read_text()
    (snippet,) = re.findall(r"```python\n(# my_encoders.py\n.*?)```", text, flags=re.DOTALL)
    Path("my_encoders.py").write_text(snippet)
    (command,) = re.findall(r"pixelgan (fit .*my_encoders.ResNet)", text)
    pixelgan(*command.split(), "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--run_dir", "run")
    loaded = PixelGAN.load_from_checkpoint("run/checkpoints/last.ckpt")
    assert loaded.features(torch.zeros(2, *SHAPE)).shape == (2, 256)


# ------------------------------------------------------------------------------------------------------------- training


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, limit_val_batches=1, **{**quiet, **arguments})


def data() -> DigitsDataModule:
    return DigitsDataModule(binarization="threshold", batch_size=32)


def test_dropout_is_continued_bit_by_bit(tmp_path: Path) -> None:
    """A component may draw from PyTorch's global stream, of which a checkpoint knows nothing."""
    weights = []
    for parts in ((4,), (2, 4)):
        folder, last = tmp_path / str(len(parts)), None
        for steps in parts:
            torch.manual_seed(7 if last is None else steps)  # another process would have another stream
            made = model(encoder=Flat(dropout=0.5))
            save = RunCheckpoint(str(folder))
            trainer(tmp_path, max_steps=steps, callbacks=[save, StopOnSignal()]).fit(made, data(), ckpt_path=last)
            last = folder / "last.ckpt"
        weights.append(made.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


BATCHES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "pairs": (
        {},
        TensorDataset(torch.zeros(4, *SHAPE), torch.zeros(4)),
        "training batches of type list are not usable",
    ),
    "images": ({}, [{"image": torch.zeros(*SHAPE)}] * 4, "training batches of type dict are not usable"),
    "no labels": (
        {"phases": {"classification": ClassificationPhase(alone=2)}},
        [{"unlabelled": {"image": torch.zeros(*SHAPE)}}] * 4,
        "phases.classification is not usable with batches without labelled images",
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_another_form(name: str, tmp_path: Path) -> None:
    arguments, rows, message = BATCHES[name]
    made = model(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, max_steps=1).fit(made, DataLoader(rows, batch_size=2))
    with pytest.raises(ConfigurationError, match="evaluation batches of type"):
        trainer(tmp_path).validate(made, DataLoader(TensorDataset(torch.zeros(4, *SHAPE)), batch_size=2))


def test_a_schedule_without_an_end(tmp_path: Path) -> None:
    made = model(phases={"generator": GeneratorPhase(schedule="cosine")})
    with pytest.raises(
        ConfigurationError, match="schedule='cosine' of the generator phase is not usable without an end"
    ):
        trainer(tmp_path, max_epochs=-1, max_time="00:00:01:00").fit(made, data())


def test_compiled_code_without_a_place_to_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelgan_lightning.decoders import kernels

    compile_ = numba.njit

    def njit(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'draw': no locator available")
        return compile_(**options)

    kernels.image_loop.cache_clear()
    monkeypatch.setattr(numba, "njit", njit)
    assert kernels.image_loop(3, exact=False) is not None
    kernels.image_loop.cache_clear()


def test_deterministic_posterior_is_no_default_for_categories() -> None:
    with pytest.raises(ConfigurationError, match="does not fit"):
        model(prior=Die(), posterior=DeterministicPosterior())
