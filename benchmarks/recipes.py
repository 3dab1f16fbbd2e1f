"""Try many recipes for MNIST side by side on one GPU: each is a process whose training step is one CUDA graph.

    nvidia-cuda-mps-control -d  # lets processes share the GPU at the same moment, not in turns
    python benchmarks/recipes.py results/mnist_recipes/third.json --data data --out recipes.jsonl --seconds 200
    python benchmarks/recipes.py --draw docs/images/soft_first.png results/mnist_recipes/second.jsonl

The parts are those of the package and the phases those of the paper, with draws of PyTorch's own generator: this is for
choosing settings on validation images. What was chosen is then trained by ``pixelgan fit``. A recipe file maps names to
what differs from :class:`Recipe`; a rate is a number or a list of ``[step, value]`` between which it is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.datamodules import MNISTDataModule
from pixelgan_lightning.decoders import ConvDecoder, GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.likelihoods import Bernoulli
from pixelgan_lightning.posteriors import CategoricalPosterior
from pixelgan_lightning.priors import Categorical

TRAINING = 50_000
"""Images to train on; the 10,000 behind them are for validation."""

Rate = float | list[list[float]]


@dataclass(frozen=True)
class Recipe:
    """What a recipe file may say."""

    steps: int = 8000
    seed: int = 0
    categories: int = 30
    batch: int = 250
    decoded: int = 100  # images of a batch that the reconstruction phase sees
    views: float = 0.0  # probability of an affine view for the encoder
    encoder: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] | list[int] = field(default_factory=dict)  # a list: independent pixels
    grey: bool = False  # the encoder sees grey values
    dynamic: bool = False  # binarised anew at every visit, not by a threshold
    dropped: float = 0.0  # share of the decoder's input pixels that are set to 0
    encoder_noise: float = 0.0  # standard deviation of Gaussian noise on what the encoder sees
    labels: int = 0  # training images with a label, as many of each class
    lr_decoder: Rate = 1e-3
    lr_encoder: Rate = 5e-4  # in the reconstruction phase
    lr_discriminator: Rate = 5e-4
    lr_generator: Rate = 5e-4
    lr_classification: Rate = 3e-4
    gain: Rate = 3.0
    noise: Rate = 0.2
    entropy: Rate = -1.0  # steer the generator's rate towards codes of this entropy, nats; negative: do not
    average: float = 0.998


RATES = (
    *("lr_decoder", "lr_encoder", "lr_discriminator", "lr_generator", "lr_classification"),
    *("gain", "noise", "entropy"),
)


def rate(points: Rate, steps: int) -> Tensor:
    """The value of a rate at every step, ``[steps]``."""
    steps_of, values = zip(*([[0, points]] if isinstance(points, int | float) else points), strict=True)
    return torch.tensor(np.interp(np.arange(steps), steps_of, values), dtype=torch.float32)


class Run:
    """One recipe in training.

    Args:
        recipe: its settings.
        images: ``[60000, 1, 28, 28]`` uint8, on the device.
        labels: int64 ``[60000]``, there too.
    """

    def __init__(self, recipe: Recipe, images: Tensor, labels: Tensor) -> None:
        self.recipe, self.images, self.labels = recipe, images, labels
        device, shape = images.device, (1, 28, 28)
        torch.manual_seed(recipe.seed)
        prior = Categorical(recipe.categories)
        self.encoder = ConvEncoder(**recipe.encoder).build(shape)
        self.posterior = CategoricalPosterior(gain=1.0).build(self.encoder.num_features, prior)
        decoder = ConvDecoder(recipe.decoder) if isinstance(recipe.decoder, list) else GatedPixelCNN(**recipe.decoder)
        self.decoder = decoder.build(shape, recipe.categories, Bernoulli())
        self.discriminator = MLPDiscriminator().build(recipe.categories)
        for part in (self.encoder, self.posterior, self.decoder, self.discriminator):
            part.to(device).train()
        self.recognition = [*self.encoder.parameters(), *self.posterior.parameters()]
        self.averaged = [p.detach().clone() for p in self.recognition]
        self.rates = torch.stack([rate(getattr(recipe, name), recipe.steps) for name in RATES], 1).to(device)
        self.now = dict(zip(RATES, torch.zeros(len(RATES), device=device).unbind(), strict=True))
        self.step_number = torch.zeros(1, dtype=torch.long, device=device)
        self.code_entropy = torch.full((), math.log(recipe.categories), device=device)
        self.order = self._order().to(device)
        self.labelled = self._labelled().to(device) if recipe.labels else None
        self.affine = RandomAffine()
        self.half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)
        if device.type == "cuda" and isinstance(self.decoder, GatedPixelCNN):
            self.decoder.compile()
        decoder_group, encoder_group = list(self.decoder.parameters()), self.recognition
        self.optimizers = {
            "reconstruction": self._adam({"lr_decoder": decoder_group, "lr_encoder": encoder_group}, 0.9),
            "discriminator": self._adam({"lr_discriminator": list(self.discriminator.parameters())}, 0.5),
            "generator": self._adam({"lr_generator": self.recognition}, 0.5),
            "classification": self._adam({"lr_classification": self.recognition}, 0.9),
        }
        self.done, self.graph = 0, None

    def _order(self) -> Tensor:
        recipe, generator = self.recipe, torch.Generator().manual_seed(1000 + self.recipe.seed)
        an_epoch = TRAINING // recipe.batch
        epochs = [torch.randperm(TRAINING, generator=generator) for _ in range(recipe.steps // an_epoch + 1)]
        rows = [epoch[: an_epoch * recipe.batch].view(an_epoch, recipe.batch) for epoch in epochs]
        return torch.cat(rows)[: recipe.steps]

    def _labelled(self) -> Tensor:
        generator = torch.Generator().manual_seed(77 + self.recipe.seed)
        of_class = [(self.labels[:TRAINING].cpu() == c).nonzero().squeeze(1) for c in range(10)]
        each = self.recipe.labels // 10
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:each]] for rows in of_class])

    def _adam(self, groups: dict[str, list[nn.Parameter]], beta: float) -> torch.optim.Adam:
        """Adam whose rates are read from the device, so that a graph can change them."""
        cuda = self.images.is_cuda
        parameters = [{"params": p, "lr": self.now[name]} for name, p in groups.items()]
        return torch.optim.Adam(parameters, betas=(beta, 0.999), capturable=cuda, fused=cuda)

    def _move(self, phase: str, loss: Tensor) -> None:
        optimizer = self.optimizers[phase]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def _binary(self, grey: Tensor) -> Tensor:
        return ((torch.rand_like(grey) if self.recipe.dynamic else 0.5) < grey).float()

    def _view(self, x: Tensor) -> Tensor:
        if not self.recipe.views:
            return x
        draws = torch.rand(len(x), self.affine.num_draws, device=x.device)
        changed = torch.rand(len(x), 1, 1, 1, device=x.device) < self.recipe.views
        return torch.where(changed, self.affine(x, draws), x)

    def _logits(self, x: Tensor) -> Tensor:
        if self.recipe.encoder_noise and torch.is_grad_enabled():
            x = x + self.recipe.encoder_noise * torch.randn_like(x)
        with self.half:
            features = self.encoder(x)
        return self.now["gain"] * self.posterior.logits(features.float())

    def _blurred(self, z: Tensor) -> Tensor:
        return z + self.now["noise"] * torch.randn_like(z)

    def step(self) -> None:
        """The phases of the paper, one after the other; nothing here waits for the device."""
        recipe, now = self.recipe, self.now
        for value, new in zip(now.values(), self.rates.index_select(0, self.step_number)[0], strict=True):
            value.copy_(new)
        steered = ((self.code_entropy - now["entropy"]) * 8).clamp(-4, 1).exp()
        now["lr_generator"].mul_(torch.where(now["entropy"] >= 0, steered, torch.ones_like(steered)))
        grey = self.images[self.order.index_select(0, self.step_number)[0]].float() / 255
        x = self._binary(grey)
        seen = grey if recipe.grey else x

        target, n = x[: recipe.decoded], recipe.decoded
        code = self._logits(self._view(seen[:n])).softmax(1)
        known = target * (torch.rand_like(target) >= recipe.dropped) if recipe.dropped else target
        with self.half:
            drawn = self.decoder(known, code)
        nats = F.binary_cross_entropy_with_logits(drawn.float(), target, reduction="sum") / n
        self._move("reconstruction", nats)

        code = self._logits(self._view(seen)).softmax(1)  # the encoder rests while the discriminator learns
        prior = F.one_hot(torch.randint(recipe.categories, (len(x),), device=x.device), recipe.categories).float()
        judged = self.discriminator(torch.cat([self._blurred(prior), self._blurred(code.detach())]))
        real, fake = judged.chunk(2)
        self._move("discriminator", 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean()))
        self._move("generator", F.softplus(-self.discriminator(self._blurred(code))).mean())

        if self.labelled is not None:
            grey = self.images[self.labelled].float() / 255
            views = self._view(torch.cat([grey if recipe.grey else self._binary(grey), seen]))
            logits = self._logits(views)[: len(grey)]
            self._move("classification", F.cross_entropy(logits, self.labels[self.labelled]))

        with torch.no_grad():
            entropy = -(code * code.clamp_min(1e-12).log()).sum(1).mean()
            self.code_entropy.lerp_(entropy, 0.02)
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.recognition], 1 - recipe.average)
            self.step_number += 1

    def capture(self) -> None:
        """Record the step as a graph, after three steps that let libraries settle."""
        self.stream = torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()
        self.done = 3

    def advance(self) -> None:
        """One step, begun and not waited for."""
        if self.graph is None:
            self.step()
        else:
            with torch.cuda.stream(self.stream):
                self.graph.replay()
        self.done += 1

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Validation errors in % with averaged weights, their entropy in nats and the number of categories used."""
        weights = [p.clone() for p in self.recognition]
        torch._foreach_copy_([p.data for p in self.recognition], self.averaged)
        grey, labels = self.images[TRAINING:].float() / 255, self.labels[TRAINING:]
        logits = self._logits(grey if self.recipe.grey else (grey > 0.5).float()).double()
        torch._foreach_copy_([p.data for p in self.recognition], weights)
        best = logits.topk(2, 1)
        category = best.indices[:, 0]
        one_hot = F.one_hot(category, self.recipe.categories)
        margin = logits - torch.where(one_hot.bool(), best.values[:, 1:], best.values[:, :1])
        counts = one_hot.T.double() @ F.one_hot(labels, 10).double()
        numbers = {
            "error": (labels[margin.argmax(0)][category] != labels).double().mean() * 100,
            "error_majority": 100 - counts.amax(1).sum() / len(labels) * 100,
            "entropy": -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(),
            "used": (counts.sum(1) > len(labels) / 1000).sum(),
        }
        if self.recipe.labels:
            numbers["error_classifier"] = (category != labels).double().mean() * 100
        return {name: round(float(value), 3) for name, value in numbers.items()}


def train(name: str, recipe: Recipe, data: str, out: Path, seconds: float, every: int) -> None:
    """Train one recipe; a line of JSON for each evaluation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    images, labels = (part.to(device) for part in MNISTDataModule(data_dir=data).load_split("train"))
    run = Run(recipe, images, labels)
    if device.type == "cuda":
        run.capture()
    begin = time.monotonic()
    while run.done < recipe.steps and time.monotonic() - begin < seconds:
        run.advance()
        evaluated = run.done % every == 0 or run.done == recipe.steps
        if device.type == "cuda" and (evaluated or run.done % 25 == 0):
            torch.cuda.synchronize()  # or graphs would pile up beyond the time that is given
        if evaluated:
            line = {"recipe": name, "step": run.done, **run.evaluate(), "seconds": round(time.monotonic() - begin)}
            with out.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)


def side_by_side(names: list[str]) -> None:
    """This command once for each recipe, all at the same time.

    Raises:
        SystemExit: one of them failed.
    """
    processes = {name: subprocess.Popen([sys.executable, *sys.argv, "--only", name]) for name in names}
    failed = [name for name, process in processes.items() if process.wait()]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def draw(logs: list[Path], out: Path, names: list[str]) -> None:
    """Softness of the codes, error and categories in use against steps, as PNG.

    Args:
        logs: what training wrote.
        out: the picture.
        names: recipes to draw, ``NAME`` or ``NAME=LABEL``; empty for all.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    panels = {
        "entropy": "entropy of q(y|x), nats",
        "error_majority": "validation error by majority, %",
        "used": "categories in use",
    }
    figure, every_axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axes, (key, title) in zip(every_axes, panels.items(), strict=True):
        for name in names or sorted({line["recipe"] for line in lines}):
            recipe, _, label = name.partition("=")
            mine = [line for line in lines if line["recipe"] == recipe]
            axes.plot([line["step"] for line in mine], [line[key] for line in mine], marker=".", label=label or recipe)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        if key != "error_majority":
            axes.set_ylim(0)
    error = every_axes[1]
    error.set_yscale("log")
    error.yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 40]))
    error.yaxis.set_minor_locator(NullLocator())
    error.yaxis.set_major_formatter(ScalarFormatter())
    figure.legend(*error.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="recipes; with --draw logs")
    parser.add_argument("--draw", type=Path, help="draw logs to this file instead of training")
    parser.add_argument("--only", default="", help="names of recipes, with commas between")
    parser.add_argument("--data", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--every", type=int, default=1000, help="steps between evaluations")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    if options.draw:
        draw(options.files, options.draw, names)
        return
    given = {name: said for file in options.files for name, said in json.loads(file.read_text()).items()}
    recipes = {name: Recipe(**said) for name, said in given.items() if not names or name in names}
    if len(recipes) == 1:
        ((name, recipe),) = recipes.items()
        train(name, recipe, options.data, options.out, options.seconds, options.every)
    else:
        side_by_side(list(recipes))


if __name__ == "__main__":
    main()
