"""``trainer.deterministic`` on a GPU: training and sampling call nothing that CUDA refuses then, seen on a CPU.

``test_cuda.py`` trains with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_model import CLASSES_OF_PHASES
from tinymodel import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from pixelgan_lightning.augmentations import Chain, RandomAffine, RandomApply, RandomColour
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import ConvDecoder, GatedPixelCNN, cpu_layer
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture
from pixelgan_lightning.priors import (
    Categorical,
    Gaussian,
    GaussianMixture,
    NoCode,
    ProductPrior,
    SwissRoll,
    Uniform,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")

REFUSED = (
    "adaptive_avg_pool", "avg_pool3d_backward", "adaptive_max_pool", "fractional_max_pool", "max_unpool",
    "upsample_linear", "upsample_bilinear", "upsample_bicubic", "upsample_trilinear", "reflection_pad", "nll_loss2d",
    "ctc_loss", "embedding_bag", "put_", "histc", "bincount", "median", "kthvalue", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "scatter_reduce",
)  # fmt: skip
"""Beginnings of the operations of ``torch.use_deterministic_algorithms`` that raise an error on CUDA."""

PARTS: dict[str, dict[str, Any]] = {
    "Bernoulli": {"likelihood": Bernoulli()},
    "CategoricalLevels": {"likelihood": CategoricalLevels(17)},
    "DiscretizedLogisticMixture": {"likelihood": DiscretizedLogisticMixture(2, levels=17)},
    "RandomAffine": {"augmentation": RandomAffine()},
    "RandomColour": {"augmentation": RandomColour()},
    "Chain": {"augmentation": Chain([RandomApply(RandomAffine()), RandomColour()])},
    "Gaussian": {"prior": Gaussian(2)},
    "GaussianMixture": {"prior": GaussianMixture()},
    "NoCode": {"prior": NoCode()},
    "SwissRoll": {"prior": SwissRoll()},
    "Uniform": {"prior": Uniform(2)},
    "ProductPrior": {"prior": ProductPrior([Categorical(10), Gaussian(2)])},
    "ConvDecoder": {"decoder": ConvDecoder([4])},
    "location_dependent": {"decoder": GatedPixelCNN(4, layers=1, first_kernel=3, bias="location_dependent")},
    "fused": {"step": "fused"},
    "agreement": {"augmentation": RandomAffine(), "agree": True, "step": "fused"},
}


class Operations(TorchDispatchMode):
    """Names of the operations that are carried out, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ != "bincount.default" or args[1:2] != (None,):  # without weights it may be called
            self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def refused(names: set[str]) -> set[str]:
    return {name for name in names if name.lstrip("_").startswith(REFUSED)}


def train(folder: Path, accelerator: str, name: str, deterministic: bool) -> tuple[dict[str, torch.Tensor], Any]:
    """The state of a tiny model after two steps with one of :data:`PARTS`, and images drawn and completed."""
    arguments = dict(PARTS[name])
    labels = isinstance(arguments.get("prior", Categorical(10)), Categorical | ProductPrior)
    names = ["reconstruction", "discriminator", "generator", *["classification"] * labels]
    names += ["agreement"] * arguments.pop("agree", False)
    model = tiny_model(phases={name: CLASSES_OF_PHASES[name]() for name in names}, **arguments).train()
    binary = isinstance(model.likelihood, Bernoulli)
    data = DigitsDataModule(
        batch_size=32, binarization="threshold" if binary else "none",
        **({"num_labelled": 20, "labelled_batch_size": 20} if labels else {}),
    )  # fmt: skip
    trainer = pl.Trainer(
        max_steps=2 * len(names), accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=2, limit_val_batches=0, max_epochs=1,
        default_root_dir=folder, deterministic=deterministic,
    )  # fmt: skip
    trainer.fit(model, data)
    model.to("cuda" if accelerator == "cuda" else "cpu").eval()
    x = torch.zeros(3, *model.image_shape, device=model.device)
    images = model.sample(3), model.complete(x, 3)
    return {name: value.cpu() for name, value in model.state_dict().items()}, [image.cpu() for image in images]


@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_called_that_cuda_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layer, "usable", lambda v: False)  # the operations of a GPU
    with Operations() as seen:
        train(tmp_path, "cpu", name, deterministic=False)
    assert {"convolution_backward.default", "addmm.default"} <= seen.names
    assert not refused(seen.names)


def test_what_cuda_refuses_would_be_seen() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    grid = torch.nn.functional.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 3, 4, 4], align_corners=False)
    with Operations() as seen:
        torch.nn.functional.grid_sample(x, grid, align_corners=False).sum().backward()
        torch.nn.functional.cross_entropy(x, torch.zeros(2, 4, 4, dtype=torch.int64))
    assert refused(seen.names) >= {"grid_sampler_2d_backward.default", "nll_loss2d_forward.default"}
