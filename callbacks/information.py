"""The information decomposition of the code as numbers, and which of them to trust how far."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pixelgan_lightning.callbacks.arguments import (
    exact_device,
    has_density,
    require_at_least,
    share_of_images,
)
from pixelgan_lightning.callbacks.evaluation import EvaluationCallback
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.information import (
    aggregate_rows,
    categorical_information,
    density_information,
    gaussian_log_densities,
)
from pixelgan_lightning.evaluation.metrics import MeanEstimate, MeanWithError
from pixelgan_lightning.posteriors import DeterministicPosterior, GaussianPosterior, Posterior, ProductPosterior
from pixelgan_lightning.priors import Prior, ProductPrior
from pixelgan_lightning.random import keyed_generator

_ELEMENTS = 4_000_000
"""Numbers that a part of the matrix of all densities may have: 32 MB."""


@dataclass(frozen=True)
class Quantity:
    """A row of the table.

    Attributes:
        name: as it is logged, without the split.
        kind: ``exact``, ``bracket`` (two numbers), ``estimate`` (unbiased, with standard error), ``lower bound`` (in
            expectation, with standard error), ``undefined`` (no number exists) or ``not computed``.
        values: by suffix of the logged name, in nats.
        note: what it is computed from, or why it is not.
    """

    name: str
    kind: str
    values: dict[str, float]
    note: str = ""

    def text(self) -> str:
        """The numbers for a reader."""
        if not self.values:
            return self.kind
        if "_upper" in self.values:
            return f"{self.values['_lower']:.4f} to {self.values['_upper']:.4f}"
        stderr = next((f" ± {value:.4f}" for suffix, value in self.values.items() if suffix == "_stderr"), "")
        return f"{next(iter(self.values.values())):.4f}{stderr}"


class InformationDecomposition(EvaluationCallback):
    """Measures ``E_x KL(q(z|x)||p(z)) = I_q(z;x) + KL(q(z)||p(z))`` and its place in ``log p(x)``, in nats per image.

    Logged as ``test/information/...`` (or ``val/information/...``), and printed as a table that says of each number
    what kind it is, after a test, a validation by command, and training:

    - ``mutual_information``, what the code says about the image; ``marginal_kl``, how far all codes together are from
      the prior; ``rate``, their sum. Categories ``y ~ q(y|x)``: exact over the split (of the softmax vector itself, a
      deterministic continuous code, the information would be infinite). Gaussian posterior: brackets ``..._lower`` and
      ``..._upper`` around the first two
      (:func:`~pixelgan_lightning.evaluation.information.density_information`), one code per image.
      Deterministic continuous and implicit codes: undefined, so not logged.
    - ``log_prob``: exact with finitely many codes; ``log_prob_lower`` by importance sampling with a Gaussian posterior.
    - ``distortion``, ``-E_q[log p(x|z)]``, z drawn from ``q(z|x)``; for categories the exact sum over all.
    - ``posterior_gap``, ``E_x KL(q(y|x)||p(y|x))``, for categories: how far the encoder is from Bayes' rule. On the
      same images ``log_prob = -distortion - decoder_rate + posterior_gap``.

    Of a product of priors each factor is measured (``.../categorical/mutual_information``), and the whole code where
    all factors have a density.

    Args:
        max_images: how many images, in the order of the split, go through the decoder, for ``log_prob`` and what
            follows it (a share of them in each process); None for all, 0 for none. The encoder sees the whole split.
        num_samples: decoder passes per image of the importance-sampled ``log p(x)``.
        widen: factor on the posterior's standard deviation, see
            :meth:`~pixelgan_lightning.model.PixelGAN.importance_log_prob`.
        splits: which of "val" and "test".
        seed: key of the draws.

    Attributes:
        table: the quantities measured last.

    Raises:
        ConfigurationError: values out of range.
    """

    table: list[Quantity]

    def __init__(
        self,
        max_images: int | None = None,
        num_samples: int = 64,
        widen: float = 1.0,
        splits: Sequence[str] = ("test",),
        seed: int = 0,
    ) -> None:
        super().__init__(splits)
        if max_images is not None:
            require_at_least("max_images", max_images, 0)
        require_at_least("num_samples", num_samples, 1)
        if not 0 < widen < math.inf:
            raise ConfigurationError(f"widen={widen!r} is not usable: allowed are finite numbers > 0")
        self.max_images, self.num_samples, self.widen, self.seed = max_images, num_samples, widen, seed
        self.table = []
        self._title = ""

    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        device = exact_device(pl_module)
        self._factors = _factors(pl_module)
        self._codes = Rows(sum(factor.width for factor in self._factors)).to(device)
        self._means = {name: MeanWithError().to(device) for name in ("log_prob", "distortion", "rate", "gap")}
        self._left = share_of_images(self.max_images, trainer)

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        features = pl_module.encoder(batch["image"])
        described = [factor.describe(features) for factor in self._factors]
        self._codes.update(batch["index"], torch.cat(described, 1))
        count = int(min(len(batch["image"]), self._left))
        if count == 0:
            return
        self._left -= count
        x, described = batch["image"][:count], [values[:count] for values in described]
        # A key of its own for each batch: the same noise in all would understate the standard error.
        seed = keyed_generator("information", self.seed, int(batch["index"][0])).initial_seed()
        if pl_module.prior.enumerate() is not None:
            log_joint = self._exact(pl_module.log_joint(x))
            self._means["log_prob"].update(log_joint.logsumexp(1))
            if self._single("categorical"):
                log_prior = pl_module.prior.enumerate()[1].to(log_joint)
                log_q = self._exact(described[0]).log_softmax(1)
                q, log_likelihood = log_q.exp(), log_joint - log_prior
                self._means["distortion"].update(-(q * log_likelihood).nan_to_num(0.0).sum(1))
                self._means["rate"].update((q * (log_q - log_prior)).nan_to_num(0.0).sum(1))
                self._means["gap"].update((q * (log_q - log_joint.log_softmax(1))).nan_to_num(0.0).sum(1))
        elif self._single("gaussian"):
            if has_density(pl_module.prior):
                log_prob = pl_module.importance_log_prob(x, self.num_samples, seed, self.widen)
                self._means["log_prob"].update(log_prob)
            mean, log_scale = described[0].chunk(2, 1)
            noise = torch.randn(mean.shape, generator=keyed_generator("distortion", seed)).to(mean)
            self._means["distortion"].update(-pl_module.reconstruct(x, mean + log_scale.exp() * noise))

    def _exact(self, values: Tensor) -> Tensor:
        return values.to(self._codes.device).double()

    def _single(self, kind: str) -> bool:
        return [factor.kind for factor in self._factors] == [kind]

    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        rows = self._codes.compute()
        columns = rows.split([factor.width for factor in self._factors], 1)
        described = dict(zip((factor.name for factor in self._factors), columns, strict=True))
        table: list[Quantity] = []
        for factor in self._factors:
            prefix = "" if len(self._factors) == 1 else f"{factor.name}/"
            table += self._of_factor(factor, described[factor.name], prefix)
        if len(self._factors) > 1:
            table += self._of_densities(self._factors, described, "")
        table += self._of_decoder(pl_module)
        for quantity in table:
            values = {f"{split}/information/{quantity.name}{suffix}": v for suffix, v in quantity.values.items()}
            pl_module.log_dict(values, sync_dist=True)  # the same on all processes: this only keeps Lightning quiet
        self.table = table
        self._title = f"information in the code: {split}, {len(rows)} images, nats per image"

    def _of_factor(self, factor: _Factor, described: Tensor, prefix: str) -> list[Quantity]:
        names = [prefix + name for name in ("mutual_information", "marginal_kl", "rate")]
        if factor.kind == "none":
            return [Quantity(name, "exact", {"": 0.0}, "there is no code") for name in names]
        if factor.kind == "categorical":
            finite = factor.prior.enumerate()
            if finite is not None:
                values = categorical_information(described, finite[1])
                note = "sum over all categories and images"
                return [Quantity(n, "exact", {"": v}, note) for n, v in zip(names, values, strict=True)]
            uniform = torch.zeros(described.shape[1], dtype=torch.float64)
            known = Quantity(names[0], "exact", {"": categorical_information(described, uniform).information})
            note = f"{type(factor.prior).__name__} does not say its weights (enumerate)"
            return [known, *(Quantity(name, "undefined", {}, note) for name in names[1:])]
        return self._of_densities([factor], {factor.name: described}, prefix)

    def _of_densities(self, factors: Sequence[_Factor], described: dict[str, Tensor], prefix: str) -> list[Quantity]:
        """Brackets, from one code for each image."""
        names = [prefix + name for name in ("mutual_information", "marginal_kl", "rate")]
        number = len(described[factors[0].name])
        reason = next((factor.reason for factor in factors if factor.reason), None)
        if reason is None and number < 2:
            reason = "needs two images"
        if reason is not None:
            return [Quantity(name, "undefined", {}, reason) for name in names]
        draws = [factor.draw(described[factor.name], self.seed) for factor in factors]
        wide = max(factor.width for factor in factors)
        parts = []
        for first in range(0, number, step := max(1, _ELEMENTS // (number * wide))):
            rows = slice(first, first + step)
            pairs = zip(factors, draws, strict=True)
            log_densities = sum(factor.log_densities(z[rows], described[factor.name]) for factor, z in pairs)
            assert isinstance(log_densities, Tensor)
            parts.append(aggregate_rows(log_densities, first))
        own, with_itself, without_itself = (torch.cat(part) for part in zip(*parts, strict=True))
        log_priors = [factor.log_prior(z) for factor, z in zip(factors, draws, strict=True)]
        known = [log_prior for log_prior in log_priors if log_prior is not None]
        log_prior = torch.stack(known).sum(0) if len(known) == len(factors) else None
        got = density_information(own, with_itself, without_itself, log_prior)
        note = f"with and without the image itself among {number}; lower end at most log N = {math.log(number):.2f}"
        table = [Quantity(names[0], "bracket", _ends(got.information), note)]
        if got.marginal_kl is None or got.rate is None or got.rate_stderr is None:
            without = " and ".join(
                type(f.prior).__name__ for f, p in zip(factors, log_priors, strict=True) if p is None
            )
            return table + [Quantity(name, "undefined", {}, f"{without} has no density") for name in names[1:]]
        table.append(Quantity(names[1], "bracket", _ends(got.marginal_kl), "brackets the other way"))
        values = {"": got.rate, "_stderr": got.rate_stderr}
        return [*table, Quantity(names[2], "estimate", values, "one code per image")]

    def _of_decoder(self, pl_module: Any) -> list[Quantity]:
        if self.max_images == 0:
            return []
        if pl_module.prior.enumerate() is not None:
            log_prob = self._means["log_prob"].compute()
            images = f"{log_prob.number} images"
            table = [_mean("log_prob", "exact", log_prob, f"{images}, all codes")]
            if self._single("categorical"):
                means = {name: self._means[name].compute() for name in ("distortion", "rate", "gap")}
                table += [
                    _mean("distortion", "exact", means["distortion"], f"{images}, sum over all categories"),
                    _mean("decoder_rate", "exact", means["rate"], f"the rate of these {images}"),
                    _mean("posterior_gap", "exact", means["gap"], f"{images}, encoder against Bayes' rule"),
                ]
            return table
        if self._single("gaussian"):
            distortion = self._means["distortion"].compute()
            images = f"{distortion.number} images"
            if has_density(pl_module.prior):
                note = f"{images}, {self.num_samples} importance samples each, posterior widened {self.widen:g} times"
                log_prob = self._means["log_prob"].compute()
                first = _mean("log_prob", "lower bound", log_prob, note, "_lower")
            else:
                first = Quantity("log_prob", "undefined", {}, f"{type(pl_module.prior).__name__} has no density")
            return [first, _mean("distortion", "estimate", distortion, f"{images}, one code each")]
        note = "no finite sum, and importance sampling needs a GaussianPosterior"
        return [Quantity("log_prob", "not computed", {}, note)]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._print(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if not self.table or not trainer.is_global_zero:
            return
        table = Table(title=self._title)
        table.add_column("quantity", no_wrap=True)
        table.add_column("nats", justify="right", no_wrap=True)
        table.add_column("kind", no_wrap=True)
        table.add_column("how")
        for quantity in self.table:
            table.add_row(quantity.name, quantity.text(), quantity.kind, quantity.note)
        Console().print(table)


# ------------------------------------------------------------------------------------------------------------ the parts


@dataclass(frozen=True)
class _Factor:
    """A part of the code with what its posterior can say about it."""

    name: str
    kind: str  # none, categorical, gaussian, undefined
    prior: Prior
    width: int  # numbers that describe q(z|x)
    describe: Callable[[Tensor], Tensor]  # from features: logits, or means and log scales
    reason: str | None = None  # why there is no density q(z|x)

    def draw(self, described: Tensor, seed: int) -> Tensor:
        """A code for each image: a category ``[N]``, or a vector ``[N, D]``; a function of seed and images alone."""
        generator = keyed_generator("information", seed, self.name)
        if self.kind == "categorical":
            return torch.multinomial(described.cpu().softmax(1), 1, generator=generator)[:, 0].to(described.device)
        mean, log_scale = described.chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(mean)
        return mean + log_scale.exp() * noise

    def log_densities(self, z: Tensor, described: Tensor) -> Tensor:
        """``log q(z_i|x_j)``, ``[M, N]``, of M codes and all N images."""
        if self.kind == "categorical":
            return described.log_softmax(1).T[z]
        return gaussian_log_densities(z, *described.chunk(2, 1))

    def log_prior(self, z: Tensor) -> Tensor | None:
        """``log p(z_i)``, ``[N]``; None where the prior does not know it."""
        if self.kind == "categorical":
            finite = self.prior.enumerate()
            return None if finite is None else finite[1].to(z.device)[z]
        return _log_prior(self.prior, z)


def _factors(pl_module: Any) -> list[_Factor]:
    """The parts of the code; a code that is no product has one."""
    prior, posterior = pl_module.prior, pl_module.posterior
    if not (isinstance(prior, ProductPrior) and isinstance(posterior, ProductPosterior)):
        return [_factor("code", prior, posterior)]
    names = [type(factor).__name__.lower() for factor in prior.factors()]
    unique = [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
    return [_factor(*part) for part in zip(unique, prior.factors(), posterior.parts(), strict=True)]


def _factor(name: str, prior: Prior, posterior: Posterior) -> _Factor:
    if prior.code_dim == 0:
        return _Factor(name, "none", prior, 0, _nothing)
    if type(posterior).logits is not Posterior.logits and prior.num_categories == prior.code_dim:
        return _Factor(name, "categorical", prior, prior.num_categories, posterior.logits)
    if isinstance(posterior, GaussianPosterior):
        return _Factor(name, "gaussian", prior, 2 * prior.code_dim, functools.partial(_moments, posterior))
    if isinstance(posterior, DeterministicPosterior):
        reason = "a deterministic continuous code: its information is infinite"
    else:
        reason = f"{type(posterior).__name__} has no density"
    return _Factor(name, "undefined", prior, 0, _nothing, reason)


def _moments(posterior: GaussianPosterior, features: Tensor) -> Tensor:
    return torch.cat(posterior.moments(features), 1)


def _nothing(features: Tensor) -> Tensor:
    return features.new_zeros(len(features), 0)


def _log_prior(prior: Prior, z: Tensor) -> Tensor | None:
    return prior.log_prob(z) if has_density(prior) else None


def _ends(bracket: tuple[float, float]) -> dict[str, float]:
    return {"_lower": bracket[0], "_upper": bracket[1]}


def _mean(name: str, kind: str, mean: MeanEstimate, note: str, suffix: str = "") -> Quantity:
    return Quantity(name, kind, {suffix: mean.mean, "_stderr": mean.standard_error}, note)


class Rows(Metric):
    """All rows of a split, in the order of their images' indices: the same for any batches and processes."""

    full_state_update = False
    is_differentiable = False

    index: list[Tensor]
    rows: list[Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.add_state("index", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, index: Tensor, rows: Tensor) -> None:
        """Add ``rows`` ``[B, width]`` of the images ``index`` ``[B]``."""
        self.index.append(index.to(self.device))
        self.rows.append(rows.detach().to(self.device).double())

    def compute(self) -> Tensor:
        """``[N, width]``, float64."""
        if len(self.index) == 0:
            return torch.empty(0, self.width, dtype=torch.float64)
        return dim_zero_cat(self.rows)[dim_zero_cat(self.index).argsort()]
