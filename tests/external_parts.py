"""One part of every family that the package knows nothing of, each as short as a user would write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.datamodules import ImageDataModule
from pixelgan_lightning.datamodules.base import Source, Split
from pixelgan_lightning.decoders import Decoder
from pixelgan_lightning.decoders.base import Offset
from pixelgan_lightning.discriminators import Discriminator
from pixelgan_lightning.encoders import Encoder
from pixelgan_lightning.likelihoods import Likelihood
from pixelgan_lightning.phases import Encoded, Phase, TrainStep
from pixelgan_lightning.posteriors import Posterior
from pixelgan_lightning.priors import Prior


class Cross(Prior):
    """Codes on the two axes of the plane."""

    code_dim = 2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        axis = torch.randint(2, (n,), generator=generator)
        return F.one_hot(axis, 2) * torch.randn(n, 1, generator=generator, dtype=torch.float32)


class Shaken(Posterior):
    """A code with noise of a given size around it."""

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale

    def build(self, num_features: int, prior: Prior) -> Self:
        self.noise_dim = prior.code_dim
        self.code = nn.Linear(num_features, prior.code_dim)
        return self

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.code(features) if noise is None else self.code(features) + self.scale * noise


class Profile(Encoder):
    """Reads how bright the rows of an image are."""

    def build(self, image_shape: tuple[int, int, int]) -> Self:
        self.num_features = image_shape[0] * image_shape[1]
        self.layer = nn.Linear(self.num_features, self.num_features)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(3).flatten(1)).relu()


class LeftNeighbour(Decoder):
    """The code and the pixel to the left decide about a pixel; drawn by the package's plain sampler."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width

    def build(self, image_shape: tuple[int, int, int], code_dim: int, likelihood: Likelihood) -> Self:
        self.image_shape, self.likelihood = image_shape, likelihood
        channels, height, width = image_shape
        self.from_code = nn.Linear(code_dim, self.width * height * width)
        self.from_left = nn.Conv2d(channels, self.width, 1)
        self.head = nn.Conv2d(self.width, likelihood.params_per_pixel(channels), 1)
        return self

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        left = F.pad(x, (1, 0))[..., :-1]
        hidden = self.from_code(z).view(len(z), self.width, *self.image_shape[1:]) + self.from_left(left)
        return self.head(hidden.relu())

    def receptive_field(self) -> frozenset[Offset]:
        return frozenset({(0, -1)})


class Binomial(Likelihood):
    """``level ~ Binomial(levels - 1, sigmoid(parameter))``: one parameter for each value."""

    def __init__(self, levels: int = 17) -> None:
        super().__init__()
        self.levels = levels
        n, k = torch.tensor(levels - 1.0), torch.arange(float(levels))
        self.choose = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()

    def params_per_pixel(self, channels: int) -> int:
        return channels

    def _log_p(self, params: Tensor) -> Tensor:
        """Of every level, in a new last dimension."""
        level = torch.arange(self.levels).to(params)
        success, failure = F.logsigmoid(params)[..., None], F.logsigmoid(-params)[..., None]
        return self.choose.to(params) + level * success + (self.levels - 1 - level) * failure

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        level = (x * (self.levels - 1)).round().long()
        return self._log_p(params).gather(-1, level[..., None]).flatten(1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        cdf = self._log_p(params / temperature).exp().cumsum(-1)[..., :-1]
        return (uniforms[..., None] >= cdf).sum(-1).to(params) / (self.levels - 1)


class Quadratic(Discriminator):
    """Judges a code by a quadratic function of it."""

    def build(self, code_dim: int) -> Self:
        self.layer = nn.Linear(2 * code_dim, 1)
        return self

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(torch.cat([z, z.square()], 1)).flatten()


class Mirror(Augmentation):
    """Turns half of the images around."""

    num_draws = 1

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        return torch.where(draws[:, :, None, None] < 0.5, x.flip(3), x)


class Stripes(ImageDataModule):
    """6x8 images of 17 levels, half of them with horizontal, half with vertical stripes."""

    image_shape, num_classes, native_levels = (1, 6, 8), 2, 17

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        labels = torch.arange(160 if source == "train" else 40) % 2
        generator = torch.Generator().manual_seed(len(source))
        rows = torch.randint(17, (len(labels), 1, 6, 1), generator=generator, dtype=torch.uint8)
        columns = torch.randint(17, (len(labels), 1, 1, 8), generator=generator, dtype=torch.uint8)
        vertical = (labels == 1)[:, None, None, None]
        return torch.where(vertical, columns.expand(-1, -1, 6, -1), rows.expand(-1, -1, -1, 8)), labels

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels))
        return {"train": rows[:120], "val": rows[120:], "test": rows}[split]


class InkOfSamples(pl.Callback):
    """Logs how bright samples from the prior are."""

    def __init__(self, number: int = 8) -> None:
        self.number = number

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.log("val/ink", pl_module.sample(self.number).mean())

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.log("test/ink", pl_module.sample(self.number).mean())


class FixedRate(Phase):
    """Confidence that decides about its own rate: nobody can give its constructor another."""

    reads = ("logits",)

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__(lr=1e-4)
        self.strength = strength

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        log_q = encoded["unlabelled"].logits.log_softmax(1)
        return -self.strength * (log_q.exp() * log_q).sum(1).mean()


class Confidence(Phase):
    """The encoder minimises the entropy of ``q(y|x)``."""

    reads = ("logits",)

    def __init__(self, strength: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.strength = strength

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        log_q = encoded["unlabelled"].logits.log_softmax(1)
        return -self.strength * (log_q.exp() * log_q).sum(1).mean()
