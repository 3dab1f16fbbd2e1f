"""The information decomposition: identities, brackets around known values, and what has no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tinymodel import tiny_model
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.callbacks import ClusterAccuracy, InformationDecomposition, MarginalLikelihood
from pixelgan_lightning.callbacks.information import Rows
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.information import (
    aggregate_rows,
    categorical_information,
    density_information,
    gaussian_log_densities,
)
from pixelgan_lightning.posteriors import (
    CategoricalPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    ProductPosterior,
)
from pixelgan_lightning.priors import Categorical, Gaussian, GaussianMixture, NoCode, ProductPrior, SwissRoll


def uniform(k: int) -> Tensor:
    return torch.full((k,), -math.log(k), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------ the mathematics


def test_the_rate_is_information_and_marginal_kl() -> None:
    logits = 3 * torch.randn(50, 7, dtype=torch.float64)
    logits[0] = torch.tensor([0.0] + [-torch.inf] * 6)  # a certain category
    log_prior = torch.randn(7, dtype=torch.float64).log_softmax(0)
    got = categorical_information(logits, log_prior)
    assert got.rate == pytest.approx(got.information + got.marginal_kl, abs=1e-12)
    assert min(got) > 0


@pytest.mark.parametrize("k", [2, 8])
def test_extremes_of_categories(k: int) -> None:
    certain = categorical_information(1e4 * torch.eye(k).repeat(3, 1), uniform(k))
    assert certain.information == pytest.approx(math.log(k))
    assert certain.marginal_kl == pytest.approx(0, abs=1e-12)
    same = categorical_information(torch.randn(1, k).repeat(9, 1), uniform(k))
    assert same.information == pytest.approx(0, abs=1e-12)
    assert same.marginal_kl == pytest.approx(same.rate)


def test_densities_are_those_of_torch() -> None:
    z, mean, log_scale = torch.randn(3, 2).double(), torch.randn(5, 2).double(), torch.randn(5, 2).double()
    wanted = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z.unsqueeze(1)).sum(2)
    torch.testing.assert_close(gaussian_log_densities(z, mean, log_scale), wanted)


def linear_gaussian(number: int, spread: float, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`aggregate_rows` makes of all densities, and ``log N(z; 0, 1)``, where the truth is known.

    Means are ``N(0, spread^2)``, noise has sd ``scale``.
    """
    generator = torch.Generator().manual_seed(0)
    mean = spread * torch.randn(number, 1, generator=generator, dtype=torch.float64)
    log_scale = torch.full_like(mean, math.log(scale))
    z = mean + scale * torch.randn(number, 1, generator=generator, dtype=torch.float64)
    log_prior = -0.5 * (z[:, 0].square() + math.log(2 * math.pi))
    return *aggregate_rows(gaussian_log_densities(z, mean, log_scale), 0), log_prior


@pytest.mark.parametrize(("spread", "scale"), [(0.8, 0.6), (2.0, 0.5), (0.9, 0.05)])
def test_brackets_hold_the_truth(spread: float, scale: float) -> None:
    number = 2000
    got = density_information(*linear_gaussian(number, spread, scale))
    variance = spread**2 + scale**2
    information = 0.5 * math.log(variance / scale**2)
    marginal_kl = 0.5 * (variance - 1 - math.log(variance))
    sampling = 4 / math.sqrt(number)
    assert got.marginal_kl is not None
    assert got.rate is not None
    assert got.rate_stderr is not None
    assert got.information.lower - sampling < information < got.information.upper + sampling
    assert got.marginal_kl.lower - sampling < marginal_kl < got.marginal_kl.upper + sampling
    assert got.rate == pytest.approx(information + marginal_kl, abs=4 * got.rate_stderr + 1e-9)


def test_few_images_give_wide_brackets() -> None:
    number = 20
    got = density_information(*linear_gaussian(number, 1.0, 1e-4))
    truth = math.log(1e4)
    assert got.information.lower == pytest.approx(math.log(number), abs=0.01)  # saturated
    assert got.information.lower < truth < got.information.upper
    assert got.marginal_kl is not None
    assert got.rate == pytest.approx(got.information.lower + got.marginal_kl.upper)
    assert got.rate == pytest.approx(got.information.upper + got.marginal_kl.lower)


def test_both_estimates_of_the_aggregate() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64)
    own, with_itself, without_itself = aggregate_rows(matrix, 0)
    torch.testing.assert_close(own, matrix.diag())
    # The mean over all is the mean over the others and the image's own density, by their weights.
    torch.testing.assert_close(with_itself.exp(), (own.exp() + 5 * without_itself.exp()) / 6)
    parts = [aggregate_rows(matrix[i : i + 4], i) for i in (0, 4)]
    for whole, part in zip((own, with_itself, without_itself), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(part), whole)


# --------------------------------------------------------------------------------------------------------- the callback


def evaluate(
    folder: Path, model: PixelGAN, *callbacks: pl.Callback, split: str = "test", batches: int = 2, batch_size: int = 30
) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        limit_test_batches=batches,
        limit_val_batches=batches,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    run = trainer.test if split == "test" else trainer.validate
    (logged,) = run(model, DigitsDataModule(eval_batch_size=batch_size), verbose=False)
    return {name.removeprefix(f"{split}/information/"): value for name, value in logged.items()}


def digits(number: int) -> Tensor:
    data = DigitsDataModule(eval_batch_size=number)
    data.setup("test")
    return next(iter(data.test_dataloader()))["image"]


def kinds(callback: InformationDecomposition) -> dict[str, str]:
    return {quantity.name: quantity.kind for quantity in callback.table}


@pytest.mark.parametrize("max_images", [None, 7])
def test_the_identities_of_a_categorical_code(tmp_path: Path, max_images: int | None) -> None:
    model = tiny_model(Categorical(4)).double()
    callback = InformationDecomposition(max_images)
    got = evaluate(tmp_path, model.float(), callback)
    assert got["rate"] == pytest.approx(got["mutual_information"] + got["marginal_kl"], abs=1e-6)
    assert got["log_prob"] == pytest.approx(-got["distortion"] - got["decoder_rate"] + got["posterior_gap"], abs=1e-4)
    x = digits(max_images or 60)
    assert got["log_prob"] == pytest.approx(float(model.log_prob(x).mean()), abs=1e-4)
    q = model.category_logits(x).log_softmax(1)
    gap = (q.exp() * (q - model.bayes_posterior(x))).sum(1).mean()
    assert got["posterior_gap"] == pytest.approx(float(gap), abs=1e-4)
    assert got["decoder_rate"] == pytest.approx(float((q.exp() * (q + math.log(4))).sum(1).mean()), abs=1e-5)
    assert set(kinds(callback).values()) == {"exact"}


def test_it_agrees_with_the_other_callbacks(tmp_path: Path) -> None:
    callbacks = InformationDecomposition(), ClusterAccuracy(), MarginalLikelihood()
    got = evaluate(tmp_path, tiny_model(), *callbacks, batches=1)
    assert got["mutual_information"] == pytest.approx(got["test/mutual_information"])
    assert got["marginal_kl"] == pytest.approx(got["test/marginal_kl"], abs=1e-6)
    assert got["log_prob"] == pytest.approx(got["test/log_prob"])
    assert got["log_prob_stderr"] == pytest.approx(got["test/log_prob_stderr"])


@pytest.mark.parametrize("prior", [Gaussian(2), GaussianMixture(3)], ids=lambda prior: type(prior).__name__)
def test_a_gaussian_posterior(tmp_path: Path, prior: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(prior, posterior=GaussianPosterior())
    callback = InformationDecomposition(num_samples=8)
    got = evaluate(tmp_path, model, callback)
    assert got["mutual_information_lower"] <= math.log(60)
    assert got["mutual_information_lower"] < got["mutual_information_upper"]
    rate = got["mutual_information_lower"] + got["marginal_kl_upper"]
    assert got["rate"] == pytest.approx(rate, abs=1e-5)
    assert got["rate"] == pytest.approx(got["mutual_information_upper"] + got["marginal_kl_lower"], abs=1e-5)
    assert kinds(callback) == {
        "mutual_information": "bracket",
        "marginal_kl": "bracket",
        "rate": "estimate",
        "log_prob": "lower bound",
        "distortion": "estimate",
    }
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("test, 60 images", "bracket", "lower bound", "estimate"))


def test_a_posterior_that_is_the_prior(tmp_path: Path) -> None:
    """Codes that know nothing: no information, no distance, and log p(x) is the plain mean over the prior."""
    model = tiny_model(Gaussian(2), posterior=GaussianPosterior())
    for parameter in model.posterior.parameters():
        torch.nn.init.zeros_(parameter)
    got = evaluate(tmp_path, model, InformationDecomposition(num_samples=4))
    for name in ("mutual_information_lower", "mutual_information_upper", "marginal_kl_lower", "rate"):
        assert got[name] == pytest.approx(0, abs=1e-6)
    assert got["log_prob_lower"] > -got["distortion"] - 4 * got["distortion_stderr"]


@pytest.mark.parametrize(
    ("prior", "posterior", "reason"),
    [
        (Gaussian(2), None, "infinite"),
        (Gaussian(2), ImplicitPosterior(2, 4), "ImplicitPosterior has no density"),
        (SwissRoll(noise=0.0), GaussianPosterior(), "SwissRoll has no density"),
    ],
    ids=["deterministic", "implicit", "noiseless"],
)
def test_what_has_no_number(
    tmp_path: Path, prior: Any, posterior: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = InformationDecomposition(num_samples=2)
    got = evaluate(tmp_path, tiny_model(prior, posterior=posterior), callback)
    assert kinds(callback)["marginal_kl"] == kinds(callback)["rate"] == "undefined"
    assert not any("marginal_kl" in name or "rate" in name or name.startswith("log_prob") for name in got)
    assert ("mutual_information_lower" in got) == (type(posterior) is GaussianPosterior)
    printed = capsys.readouterr().out
    assert "undefined" in printed
    assert any(reason in quantity.note for quantity in callback.table)


def test_no_code_has_no_information(tmp_path: Path) -> None:
    model = tiny_model(NoCode())
    got = evaluate(tmp_path, model, InformationDecomposition())
    assert got["mutual_information"] == got["marginal_kl"] == got["rate"] == 0
    assert got["log_prob"] == pytest.approx(float(model.log_prob(digits(60)).mean()), abs=1e-4)


def test_products(tmp_path: Path) -> None:
    """Each factor is measured; the code as a whole knows at most what they know together, here within the brackets."""
    prior = ProductPrior([Categorical(3), Gaussian(2)])
    model = tiny_model(prior, posterior=ProductPosterior([CategoricalPosterior(), GaussianPosterior()]))
    callback = InformationDecomposition()
    got = evaluate(tmp_path, model, callback)
    alone = tiny_model(Categorical(3))
    assert alone.prior.num_categories == 3
    wanted = categorical_information(model.category_logits(digits(60)), uniform(3))
    assert got["categorical/mutual_information"] == pytest.approx(wanted.information, abs=1e-5)
    assert got["gaussian/mutual_information_lower"] <= got["mutual_information_lower"] + 1e-6
    assert got["rate"] == pytest.approx(got["mutual_information_lower"] + got["marginal_kl_upper"], abs=1e-5)
    assert kinds(callback)["log_prob"] == "not computed"

    deterministic = tiny_model(prior)
    got = evaluate(tmp_path, deterministic, callback)
    assert "categorical/mutual_information" in got
    assert kinds(callback)["gaussian/mutual_information"] == kinds(callback)["mutual_information"] == "undefined"


def test_the_numbers_do_not_depend_on_batches(tmp_path: Path) -> None:
    prior = ProductPrior([Categorical(3), Gaussian(2)])
    model = tiny_model(prior, posterior=ProductPosterior([CategoricalPosterior(), GaussianPosterior()]))
    one = evaluate(tmp_path, model, InformationDecomposition(0), batches=1, batch_size=60)
    many = evaluate(tmp_path, model, InformationDecomposition(0), batches=6, batch_size=10)
    names = {name for name in one if not name.startswith("test/")}
    assert {name: one[name] for name in names} == pytest.approx({name: many[name] for name in names}, abs=1e-5)
    assert not any("log_prob" in name for name in names)


def test_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = evaluate(tmp_path, tiny_model(), InformationDecomposition(4, splits=["val"]), split="val", batches=1)
    assert "mutual_information" in got
    assert "val, 30 images" in capsys.readouterr().out
    got = evaluate(tmp_path, tiny_model(), InformationDecomposition(4), split="val", batches=1)
    assert "mutual_information" not in got


@pytest.mark.parametrize(
    "arguments", [{"max_images": -1}, {"num_samples": 0}, {"widen": 0.0}, {"splits": "test"}, {"splits": ["train"]}]
)
def test_unusable_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is not usable: allowed are"):
        InformationDecomposition(**arguments)


def test_two_processes_measure_what_one_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's processes get every other image; what they gather is put in the order of the images."""
    rows, index = torch.randn(7, 3), torch.tensor([4, 9, 2, 0, 7, 5, 11])
    one, ranks = Rows(3), [Rows(3), Rows(3)]
    one.update(index, rows)
    for rank, metric in enumerate(ranks):
        metric.update(index[rank::2], rows[rank::2])
    gathered = {name: [part for metric in ranks for part in getattr(metric, name)] for name in ("index", "rows")}
    first = ranks[0]
    monkeypatch.setattr(first, "index", gathered["index"])
    monkeypatch.setattr(first, "rows", gathered["rows"])
    assert torch.equal(first.compute(), one.compute())
    assert torch.equal(one.compute(), rows[index.argsort()].double())


# ------------------------------------------------------------------------------------------------ importance sampling


def test_importance_sampled_bits_per_dim(tmp_path: Path) -> None:
    model = tiny_model(Gaussian(2), posterior=GaussianPosterior())
    got = evaluate(tmp_path, model, MarginalLikelihood(num_samples=16), batches=1)
    per_dim = 64 * math.log(2)
    assert got["test/bits_per_dim_upper"] == pytest.approx(-got["test/log_prob_lower"] / per_dim)
    assert got["test/bits_per_dim_stderr"] == pytest.approx(got["test/log_prob_stderr"] / per_dim)
    assert got["test/importance_samples"] == 16
    assert "test/log_prob" not in got
    wanted = float(model.importance_log_prob(digits(30), 16).mean())
    assert got["test/log_prob_lower"] == pytest.approx(wanted, abs=5 * got["test/log_prob_stderr"])


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [(Gaussian(2), None), (SwissRoll(noise=0.0), GaussianPosterior())],
    ids=["deterministic", "no density"],
)
def test_likelihoods_that_cannot_be_had(tmp_path: Path, prior: Any, posterior: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"MarginalLikelihood with prior=.* is not usable"):
        evaluate(tmp_path, tiny_model(prior, posterior=posterior), MarginalLikelihood())


def test_bayes_posterior_in_parts() -> None:
    model, x = tiny_model(), digits(5)
    whole = model.bayes_posterior(x)
    torch.testing.assert_close(model.bayes_posterior(x, chunk_size=3), whole)
    torch.testing.assert_close(whole.logsumexp(1), torch.zeros(5), atol=1e-5, rtol=0)


def test_the_bayes_classifiers_error(tmp_path: Path) -> None:
    got = evaluate(tmp_path, tiny_model(), ClusterAccuracy(), MarginalLikelihood(), batches=1)
    assert got["test/bayes_cluster_error_percent"] == pytest.approx(100 * (1 - got["test/bayes_cluster_accuracy"]))
