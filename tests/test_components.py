"""The contracts of priors, posteriors, encoders, discriminators and batch normalisation, and their descriptions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import start_as_ranks, wait
from scipy.stats import chi2, kstest
from torch import Tensor, nn
from torch.testing import assert_close

from pixelgan_lightning.augmentations import Augmentation, Chain, RandomAffine, RandomApply, RandomColour
from pixelgan_lightning.component import Component, construct
from pixelgan_lightning.decoders import ConvDecoder, GatedPixelCNN
from pixelgan_lightning.discriminators import Discriminator, MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder, Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture
from pixelgan_lightning.numerics.normalization import BatchNorm, running_statistics
from pixelgan_lightning.phases.agreement import pair_information
from pixelgan_lightning.posteriors import (
    CategoricalPosterior,
    DeterministicPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    NoPosterior,
    Posterior,
    ProductPosterior,
    default_posterior,
)
from pixelgan_lightning.priors import (
    Categorical,
    Gaussian,
    GaussianMixture,
    NoCode,
    Prior,
    ProductPrior,
    SwissRoll,
    Uniform,
)
from pixelgan_lightning.random import RowDraws, keyed_generator, normal_from_uniform, permutation, split_mix


class Container(Component):
    """A component with components and keyword arguments of its own, as a user may write one."""

    def __init__(self, parts: dict[str, Component], sizes: tuple[int, ...] = (), **more: Any) -> None:
        super().__init__()
        self.parts, self.sizes, self.more = parts, sizes, more


# A new component joins the tests of its contract by being listed here, with arguments other than the defaults.
PRIORS: dict[str, Callable[[], Prior]] = {
    "categorical2": lambda: Categorical(2),
    "categorical10": lambda: Categorical(),
    "gaussian1": lambda: Gaussian(dim=1),
    "gaussian2": lambda: Gaussian(),
    "gaussian5": lambda: Gaussian(5),
    "mixture": lambda: GaussianMixture(),
    "mixture_wide": lambda: GaussianMixture(3, radius=1.0, radial_std=0.7, tangential_std=0.4),
    "swiss_roll": lambda: SwissRoll(),
    "swiss_roll_noiseless": lambda: SwissRoll(turns=1.0, noise=0.0, num_components=4),
    "uniform1": lambda: Uniform(1, low=0.0, high=3.0),
    "uniform2": lambda: Uniform(),
    "product": lambda: ProductPrior([Gaussian(2), Categorical(3)]),
    "product_continuous": lambda: ProductPrior([Gaussian(1), GaussianMixture(2)]),
    "product_finite": lambda: ProductPrior([Categorical(3), NoCode()]),
    "no_code": lambda: NoCode(),
}
POSTERIORS: dict[str, tuple[Callable[[], Posterior], Prior]] = {
    "categorical": (lambda: CategoricalPosterior(), Categorical(4)),
    "categorical_plain": (lambda: CategoricalPosterior(standardize=False), Categorical(4)),
    "deterministic": (lambda: DeterministicPosterior(), Gaussian(3)),
    "gaussian": (lambda: GaussianPosterior(initial_scale=0.3), Gaussian(3)),
    "implicit": (lambda: ImplicitPosterior(noise_dim=2, width=32), Gaussian(3)),
    "argmax": (lambda: CategoricalPosterior(straight_through="argmax"), Categorical(4)),
    "sample": (lambda: CategoricalPosterior(gain=1.0, straight_through="sample"), Categorical(4)),
    "product": (lambda: ProductPosterior(), ProductPrior([Categorical(4), Gaussian(2)])),
    "product_given": (
        lambda: ProductPosterior([GaussianPosterior(), CategoricalPosterior()]),
        ProductPrior([Gaussian(2), Categorical(4)]),
    ),
    "none": (lambda: NoPosterior(), NoCode()),
}
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "conv": lambda: ConvEncoder(channels=(8, 16), num_features=12),
    "conv_group": lambda: ConvEncoder([8, 16], norm="group"),
    "conv_none": lambda: ConvEncoder([4], norm="none"),
    "conv_strides": lambda: ConvEncoder([4, 6, 4], strides=[2, 1, 3]),
}
DISCRIMINATORS: dict[str, Callable[[], Discriminator]] = {
    "mlp": lambda: MLPDiscriminator(widths=(16, 8), code_noise=0.3),
    "linear": lambda: MLPDiscriminator([]),
}
AUGMENTATIONS: dict[str, Callable[[], Augmentation]] = {
    "affine": lambda: RandomAffine(5.0, shear=0.1),
    "affine_border": lambda: RandomAffine(outside="border"),
    "colour": lambda: RandomColour(0.1, invert=0.5),
    "chain": lambda: Chain([RandomAffine(5.0), RandomColour(invert=0.5)]),
    "apply": lambda: RandomApply(RandomAffine(5.0), p=0.9),
}
OTHERS: dict[str, Callable[[], Component]] = {
    "decoder": lambda: GatedPixelCNN(8, layers=2, dilations=(1, 2), bias="location_dependent"),
    "bernoulli": lambda: Bernoulli(),
    "levels": lambda: CategoricalLevels(levels=5),
    "logistics": lambda: DiscretizedLogisticMixture(3, levels=5),
    "conv_decoder": lambda: ConvDecoder([8, 4]),
    "container": lambda: Container({"prior": Gaussian(3), "encoder": ConvEncoder((4,))}, (1, 2), speed=2.5),
}
ALL: dict[str, Callable[[], Component]] = {
    **{f"prior-{name}": make for name, make in PRIORS.items()},
    **{f"posterior-{name}": make for name, (make, _) in POSTERIORS.items()},
    **{f"encoder-{name}": make for name, make in ENCODERS.items()},
    **{f"discriminator-{name}": make for name, make in DISCRIMINATORS.items()},
    **{f"augmentation-{name}": make for name, make in AUGMENTATIONS.items()},
    **OTHERS,
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def names(members: dict[str, Any], condition: Callable[[Any], bool]) -> list[str]:
    return [name for name, make in members.items() if condition(make())]


# -------------------------------------------------------------------------------------------------------- descriptions


@pytest.mark.parametrize("name", ALL)
class TestDescription:
    def test_survives_a_checkpoint(self, name: str, tmp_path: Path) -> None:
        component = ALL[name]()
        torch.save(component.describe(), tmp_path / "description.pt")
        description = torch.load(tmp_path / "description.pt", weights_only=True)
        again = construct(description, Component)
        assert type(again) is type(component)
        assert again.describe() == component.describe() == description
        assert_same_settings(again, component)

    def test_of_an_instance_is_copied(self, name: str) -> None:
        component = ALL[name]()
        again = construct(component, Component)
        assert again is not component
        assert again.describe() == component.describe()
        assert_same_settings(again, component)


def assert_same_settings(one: Component, other: Component) -> None:
    def settings(component: Component) -> dict[str, Any]:
        public = {k: v for k, v in vars(component).items() if not k.startswith("_")}
        return {k: list(v) if isinstance(v, list | tuple) else v for k, v in public.items() if k != "parts"}

    assert settings(one) == settings(other)
    if isinstance(one, Container) and isinstance(other, Container):
        for name, part in one.parts.items():
            assert type(part) is type(other.parts[name])
            assert_same_settings(part, other.parts[name])


class TestConstruct:
    def test_description_names_given_arguments_and_defaults(self) -> None:
        assert ConvEncoder([8], norm="none").describe() == {
            "class_path": "pixelgan_lightning.encoders.conv.ConvEncoder",
            "init_args": {"channels": [8], "num_features": 256, "norm": "none", "strides": None},
        }

    def test_an_instance_is_left_alone_when_its_copy_is_built(self) -> None:
        given = MLPDiscriminator([4])
        construct(given, Discriminator).build(3)
        assert not list(given.parameters())

    @pytest.mark.parametrize(
        ("class_path", "message"),
        [
            ("os.system", "Prior classes of pixelgan_lightning"),
            ("builtins.eval", "Prior classes of pixelgan_lightning"),
            ("torch.nn.Linear", "Prior classes of pixelgan_lightning"),
            ("pixelgan_lightning.likelihoods.Bernoulli", "has no such Prior"),
            ("pixelgan_lightning.priors", "has no such Prior"),
            ("pixelgan_lightning.priors.Nothing", "has no such Prior"),
            ("no_such_module.Prior", "--allow no_such_module"),
            ("Nothing", "has no such Prior"),
            ("", "has no such Prior"),
        ],
    )
    def test_refuses_what_is_not_a_component_of_that_kind(self, class_path: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message) as caught:
            construct({"class_path": class_path, "init_args": {"command": "false"}}, Prior)
        assert "\n" not in str(caught.value)
        assert repr(class_path) in str(caught.value)

    def test_nested_components_have_to_be_components(self) -> None:
        nested = {"class_path": "os.system", "init_args": {"command": "false"}}
        for value in (nested, [nested], {"key": nested}):
            description = {"class_path": f"{__name__}.Container", "init_args": {"parts": value}}
            with pytest.raises(ConfigurationError, match=r"'os\.system' is not usable"):
                construct(description, Component)

    @pytest.mark.parametrize("value", [3, "pixelgan_lightning.priors.Gaussian", {"init_args": {}}, Bernoulli(), None])
    def test_refuses_what_is_no_description(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^prior=.* a Prior or a dictionary with"):
            construct(value, Prior)

    def test_arguments_may_be_missing(self) -> None:
        for description in ({}, {"init_args": {}}, {"init_args": None}):
            built = construct({"class_path": "pixelgan_lightning.priors.Gaussian", **description}, Prior)
            assert built.code_dim == 2


UNUSABLE: dict[str, tuple[Callable[[], object], str]] = {
    "categorical": (lambda: Categorical(1), "num_categories=1 .* >= 2"),
    "gaussian": (lambda: Gaussian(0), "dim=0 .* dim >= 1"),
    "num_components": (lambda: GaussianMixture(0), "num_components=0 .* >= 1"),
    "tangential_std": (lambda: GaussianMixture(tangential_std=0), "tangential_std=0 .* > 0"),
    "turns": (lambda: SwissRoll(turns=0), "turns=0 .* > 0"),
    "low": (lambda: Uniform(low=1, high=1), "low=1 .* high=1"),
    "no_priors": (lambda: ProductPrior([]), r"priors=\[\] .* one or more"),
    "two_categories": (lambda: ProductPrior([Categorical(2), Categorical(2)]), "more than one over categories"),
    "straight_through": (lambda: CategoricalPosterior(straight_through="x"), "straight_through='x' .* null"),  # type: ignore[arg-type]
    "noise_dim": (lambda: ImplicitPosterior(noise_dim=0), "noise_dim=0 .* >= 1"),
    "posteriors": (
        lambda: ProductPosterior([GaussianPosterior()]).build(3, ProductPrior([Gaussian(1), Gaussian(1)])),
        "posteriors with 1 parts .* 2",
    ),
    "logistics": (lambda: DiscretizedLogisticMixture(0), "num_mixtures=0 .* >= 1"),
    "shear": (lambda: RandomAffine(shear=-1.0), "shear=-1.0 .* >= 0"),
    "outside": (lambda: RandomAffine(outside="x"), "outside='x' .* zeros, border"),  # type: ignore[arg-type]
    "contrast": (lambda: RandomColour(contrast=-1.0), "contrast=-1.0 .* >= 0"),
    "invert": (lambda: RandomColour(invert=1.5), "invert=1.5 .* from 0 to 1"),
    "steps": (lambda: Chain([]), r"steps=\[\] .* one or more"),
    "p": (lambda: RandomApply(RandomAffine(), p=1.5), "p=1.5 .* from 0 to 1"),
    "gain": (lambda: CategoricalPosterior(gain=0), "gain=0 .* > 0"),
    "no_gain": (lambda: CategoricalPosterior(gain=math.nan), "gain=nan .* > 0"),
    "initial_scale": (lambda: GaussianPosterior(initial_scale=0), "initial_scale=0 .* > 0"),
    "code_noise": (lambda: MLPDiscriminator(code_noise=-0.1), "code_noise=-0.1 .* >= 0"),
    "no_noise": (lambda: MLPDiscriminator(code_noise=math.nan), "code_noise=nan .* >= 0"),
    "channels": (lambda: ConvEncoder(channels=[8, 0]), r"channels=\[8, 0\] .* >= 1"),
    "num_features": (lambda: ConvEncoder(num_features=0), "num_features=0 .* >= 1"),
    "widths": (lambda: MLPDiscriminator(widths=(8, 0)), r"widths=\[8, 0\] .* >= 1"),
    "no_channels": (lambda: ConvEncoder(channels=[]), r"channels=\[\] .* >= 1"),
    "strides": (lambda: ConvEncoder([8, 8], strides=[2]), r"strides=\[2\] .* 2 numbers >= 1"),
    "no_stride": (lambda: ConvEncoder([8, 8], strides=[2, 0]), r"strides=\[2, 0\] .* 2 numbers >= 1"),
    "norm": (lambda: ConvEncoder(norm="layer"), "norm='layer' .* 'batch', 'group', 'none'"),  # type: ignore[arg-type]
    "group": (lambda: ConvEncoder(channels=[8, 12], norm="group"), r"channels=\[8, 12\] .* multiples of 8"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_arguments(name: str) -> None:
    make, message = UNUSABLE[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- priors


def density(prior: Prior, z: Tensor) -> Tensor:
    return prior.log_prob(z.double()).exp()


@pytest.mark.parametrize("name", PRIORS)
class TestPrior:
    def test_samples_are_a_function_of_the_generator(self, name: str) -> None:
        prior = PRIORS[name]()
        state = torch.get_rng_state()
        first, same, other = (prior.sample(7, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert first.shape == (7, prior.code_dim)
        assert first.dtype == torch.float32
        assert torch.equal(first, same)
        assert not torch.equal(first, other) or prior.code_dim == 0
        assert torch.equal(torch.get_rng_state(), state)

    def test_samples_do_not_depend_on_the_default_dtype(self, name: str) -> None:
        """Lightning's ``64-true`` changes it while a batch is trained on."""
        prior = PRIORS[name]()
        expected = prior.sample(7, torch.Generator().manual_seed(3))
        with default_dtype(torch.float64):
            drawn = prior.sample(7, torch.Generator().manual_seed(3))
        assert_close(drawn, expected, rtol=0, atol=0)

    def test_default_posterior_fits(self, name: str) -> None:
        prior = PRIORS[name]()
        posterior = default_posterior(prior).build(6, prior)
        noise = torch.randn(5, posterior.noise_dim) if posterior.noise_dim else None
        assert posterior(torch.randn(5, 6), noise).shape == (5, prior.code_dim)

    def test_categories_are_named_consistently(self, name: str) -> None:
        prior = PRIORS[name]()
        finite = prior.enumerate()
        if prior.num_categories is not None:
            where = prior.category_slice or slice(None)
            one_hot = prior.sample(20, torch.Generator().manual_seed(0))[:, where]
            assert one_hot.shape == (20, prior.num_categories)
            assert torch.equal(one_hot, F.one_hot(one_hot.argmax(1), prior.num_categories).float())
            assert finite is None or len(finite[0]) == prior.num_categories

    def test_components_are_named_consistently(self, name: str) -> None:
        prior, n = PRIORS[name](), 3000
        if prior.num_components is None:
            with pytest.raises(NotImplementedError, match=f"{type(prior).__name__} has no components"):
                prior.sample_with_components(3, torch.Generator())
            return
        codes, components = prior.sample_with_components(n, torch.Generator().manual_seed(3))
        assert torch.equal(codes, prior.sample(n, torch.Generator().manual_seed(3)))
        share = components.bincount(minlength=prior.num_components) / n
        assert share.shape == (prior.num_components,)
        assert_close(share, torch.full_like(share, 1 / prior.num_components), rtol=0, atol=0.05)


@pytest.mark.parametrize("name", names(PRIORS, lambda prior: prior.enumerate() is not None))
class TestFinitePrior:
    def test_probabilities_sum_to_one(self, name: str) -> None:
        prior = PRIORS[name]()
        codes, log_weights = prior.enumerate()  # type: ignore[misc]
        assert_close(log_weights.double().exp().sum().item(), 1.0, rtol=0, atol=1e-12)
        assert_close(prior.log_prob(codes.double()), log_weights.double(), rtol=0, atol=1e-12)

    def test_samples_have_these_frequencies(self, name: str) -> None:
        prior = PRIORS[name]()
        codes, log_weights = prior.enumerate()  # type: ignore[misc]
        n = 20000
        equal = (prior.sample(n, torch.Generator().manual_seed(0))[:, None] == codes).all(2)
        assert (equal.sum(1) == 1).all()
        p = log_weights.exp()
        assert ((equal.float().mean(0) - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()

    def test_other_vectors_are_impossible(self, name: str) -> None:
        prior = PRIORS[name]()
        k = prior.code_dim
        if k == 0:
            return  # there is no other vector
        others = torch.stack([torch.zeros(k), torch.full((k,), 1 / k), torch.ones(k), 2 * torch.eye(k)[0]])
        assert (prior.log_prob(others) == -math.inf).all()


def smooth(prior: Prior) -> bool:
    """Whether there is a density that a sum over a grid integrates."""
    return not isinstance(prior, SwissRoll | Uniform)


class TestDensity:
    """Densities in one and two dimensions, over a square that holds all but 1e-9 of the mass."""

    reach, points = 7.0, 281

    def grid(self, dim: int) -> tuple[Tensor, float]:
        line = torch.linspace(-self.reach, self.reach, self.points, dtype=torch.float64)
        return torch.cartesian_prod(*[line] * dim).view(-1, dim), (2 * self.reach / (self.points - 1)) ** dim

    continuous = pytest.mark.parametrize(
        "name", names(PRIORS, lambda prior: prior.enumerate() is None and prior.code_dim <= 2 and smooth(prior))
    )

    @continuous
    def test_integrates_to_one(self, name: str) -> None:
        prior = PRIORS[name]()
        z, cell = self.grid(prior.code_dim)
        assert prior.log_prob(z).shape == (len(z),)
        assert_close((density(prior, z).sum() * cell).item(), 1.0, rtol=0, atol=1e-8)

    @continuous
    def test_is_that_of_the_samples(self, name: str) -> None:
        """Mean and covariance of the samples are those of the density."""
        prior = PRIORS[name]()
        z, cell = self.grid(prior.code_dim)
        mass = density(prior, z) * cell
        mean = mass @ z
        covariance = (z - mean).T @ (mass[:, None] * (z - mean))
        drawn = prior.sample(40000, torch.Generator().manual_seed(0)).double()
        assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
        assert_close(drawn.T.cov().view_as(covariance), covariance, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", names(PRIORS, lambda prior: prior.manifold(2) is not None))
class TestManifold:
    def test_runs_row_by_row_from_the_top_left(self, name: str) -> None:
        side = 5
        grid = PRIORS[name]().manifold(side)
        assert grid is not None
        assert grid.shape == (side * side, 2)
        assert grid.dtype == torch.float32
        across, up = grid.view(side, side, 2).unbind(2)
        assert (across.diff(dim=1) > 0).all()  # to the right
        assert (up.diff(dim=0) < 0).all()  # and down

    def test_cells_have_equal_mass(self, name: str) -> None:
        side, n = 4, 40000
        prior = PRIORS[name]()
        nodes = prior.manifold(side)
        assert nodes is not None
        # Node i is the middle of cell i in mass: below it lie (i + 1/2) / side of the samples.
        drawn = prior.sample(n, torch.Generator().manual_seed(0))
        across = nodes.view(side, side, 2)[0, :, 0]
        below = (drawn[:, :1] < across).float().mean(0)
        assert_close(below, (torch.arange(side) + 0.5) / side, rtol=0, atol=0.02)
        up = nodes.view(side, side, 2)[:, 0, 1]
        above = (drawn[:, 1:] > up).float().mean(0)
        assert_close(above, (torch.arange(side) + 0.5) / side, rtol=0, atol=0.02)


class TestUniform:
    def test_density(self) -> None:
        prior = Uniform(2, low=-1.0, high=3.0)
        z = torch.tensor([[0.0, 0.0], [-1.0, 3.0], [-1.1, 0.0], [0.0, 3.1]]).double()
        assert_close(prior.log_prob(z).exp(), torch.tensor([1 / 16, 1 / 16, 0.0, 0.0]).double(), rtol=0, atol=1e-12)
        drawn = prior.sample(1000, torch.Generator().manual_seed(0))
        assert (prior.log_prob(drawn) > -math.inf).all()
        assert_close(drawn.var(0), torch.full((2,), 16 / 12), rtol=0.1, atol=0)


class TestSwissRoll:
    def test_is_uniform_along_its_length(self) -> None:
        prior = SwissRoll(noise=0.0)
        t = prior._angle(torch.linspace(0, 1, 201))
        points = t[:, None] * torch.stack([t.cos(), t.sin()], 1)
        steps = points.diff(dim=0).norm(dim=1)
        assert_close(steps[5:], torch.full_like(steps[5:], steps[5:].mean().item()), rtol=0.01, atol=0)
        drawn = prior.sample(500, torch.Generator().manual_seed(0)).double()
        angle = prior.t_max * drawn.norm(dim=1) / prior.radius
        on_curve = (prior.radius / prior.t_max) * angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        assert_close(drawn, on_curve, rtol=0, atol=1e-4)

    def test_has_no_density(self) -> None:
        with pytest.raises(NotImplementedError, match="SwissRoll has no density"):
            SwissRoll().log_prob(torch.zeros(1, 2))


class TestProductPrior:
    def test_factors_side_by_side(self) -> None:
        prior = ProductPrior([Gaussian(2), Categorical(3), Uniform(1)])
        assert prior.code_dim == 6
        assert prior.slices() == [slice(0, 2), slice(2, 5), slice(5, 6)]
        assert prior.category_slice == slice(2, 5)
        assert prior.enumerate() is None
        z = prior.sample(7, torch.Generator().manual_seed(0)).double()
        parts = Gaussian(2).log_prob(z[:, :2]) + Categorical(3).log_prob(z[:, 2:5]) + Uniform(1).log_prob(z[:, 5:])
        assert_close(prior.log_prob(z), parts)

    def test_gaussian_product_is_a_gaussian(self) -> None:
        z = torch.randn(5, 3).double()
        assert_close(ProductPrior([Gaussian(1), Gaussian(2)]).log_prob(z), Gaussian(3).log_prob(z))


class TestGaussian:
    def test_log_prob_is_that_of_torch(self) -> None:
        z = torch.randn(6, 3).double()
        reference = torch.distributions.Normal(0.0, torch.ones((), dtype=torch.float64)).log_prob(z).sum(1)
        assert_close(Gaussian(3).log_prob(z), reference, rtol=0, atol=1e-12)

    def test_manifold_quantiles(self) -> None:
        grid = Gaussian(2).manifold(3)
        assert grid is not None
        q = 0.967421566101701  # the 5/6 quantile
        expected = [[-q, q], [0, q], [q, q], [-q, 0], [0, 0], [q, 0], [-q, -q], [0, -q], [q, -q]]
        assert_close(grid, torch.tensor(expected), rtol=0, atol=1e-6)

    def test_has_no_grid_outside_two_dimensions(self) -> None:
        assert Gaussian(1).manifold(3) is None
        assert Gaussian(3).manifold(3) is None


class Triangle(Prior):
    """The smallest prior a user can write."""

    code_dim = 1

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, 2, generator=generator).sum(1, keepdim=True)


def test_a_prior_needs_no_more_than_samples() -> None:
    prior = Triangle()
    assert prior.num_categories is None
    assert prior.enumerate() is None
    assert prior.manifold(3) is None
    assert isinstance(default_posterior(prior), DeterministicPosterior)
    with pytest.raises(NotImplementedError, match="Triangle has no density"):
        prior.log_prob(torch.zeros(1, 1))
    with pytest.raises(NotImplementedError, match="Prior does not define sample"):
        Prior().sample(1, torch.Generator())


# ---------------------------------------------------------------------------------------------------------- posteriors


def goes_with(posterior: Posterior, prior: Prior) -> bool:
    """Whether a kind of posterior can match a prior: categories with categories, the others with continuous codes."""
    if isinstance(posterior, ProductPosterior):
        if not isinstance(prior, ProductPrior):
            return False
        factors = prior.factors()
        parts = posterior.parts() or [default_posterior(factor) for factor in factors]
        return len(parts) == len(factors) and all(map(goes_with, parts, factors))
    if isinstance(posterior, NoPosterior):
        return prior.code_dim == 0
    if isinstance(posterior, CategoricalPosterior):
        return prior.num_categories == prior.code_dim
    return prior.num_categories is None and prior.code_dim > 0


@pytest.mark.parametrize("name", POSTERIORS)
class TestPosterior:
    features, batch = 6, 5

    def build(self, name: str) -> tuple[Posterior, Prior]:
        torch.manual_seed(0)
        make, prior = POSTERIORS[name]
        return make().build(self.features, prior), prior

    def noise(self, posterior: Posterior) -> Tensor | None:
        return torch.randn(self.batch, posterior.noise_dim) if posterior.noise_dim else None

    def test_shapes_and_gradients(self, name: str) -> None:
        posterior, prior = self.build(name)
        features = torch.randn(self.batch, self.features, requires_grad=True)
        codes = posterior(features, self.noise(posterior))
        assert codes.shape == (self.batch, prior.code_dim)
        if prior.code_dim == 0:
            assert not list(posterior.parameters())
            return
        (codes * torch.randn_like(codes)).sum().backward()
        for parameter in (features, *posterior.parameters()):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0

    def test_noise_matters_where_it_is_asked_for(self, name: str) -> None:
        posterior, _ = self.build(name)
        features = torch.randn(self.batch, self.features)
        mode = posterior(features)
        assert torch.equal(mode, posterior(features))
        if posterior.noise_dim:
            with_noise = posterior(features, self.noise(posterior))
            assert not torch.equal(with_noise, posterior(features, self.noise(posterior)))
            assert not torch.equal(with_noise, mode)

    def test_refuses_priors_of_the_other_kind(self, name: str) -> None:
        make, prior = POSTERIORS[name]
        other = Gaussian(4) if prior.num_categories is not None else Categorical(4)
        with pytest.raises(ConfigurationError, match=rf"posterior={type(make()).__name__} does not fit") as caught:
            make().build(self.features, other)
        assert type(other).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("prior_name", PRIORS)
    def test_every_prior_is_served_or_refused_at_once(self, name: str, prior_name: str) -> None:
        """No combination trains something else than what was asked for: continuous codes under categories, say."""
        prior, posterior = PRIORS[prior_name](), POSTERIORS[name][0]()
        if not goes_with(posterior, prior):
            with pytest.raises(ConfigurationError, match=r"^posterior") as caught:
                posterior.build(self.features, prior)
            assert "\n" not in str(caught.value)
            return
        posterior.build(self.features, prior)
        code = posterior(torch.randn(self.batch, self.features), self.noise(posterior))
        assert code.shape == (self.batch, prior.code_dim)
        if prior.num_categories is not None:
            category = code[:, prior.category_slice or slice(None)]
            assert_close(category.sum(1), torch.ones(self.batch))
            assert (category >= 0).all()

    def test_categorical_codes_are_distributions(self, name: str) -> None:
        posterior, prior = self.build(name)
        if prior.num_categories is not None:
            features = torch.randn(self.batch, self.features)
            soft = posterior.logits(features).softmax(1)
            code = posterior(features)[:, prior.category_slice or slice(None)]
            if getattr(posterior, "straight_through", None) is not None:
                soft = F.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
            assert_close(code, soft, rtol=0, atol=0)
        else:
            with pytest.raises(ConfigurationError, match=f"posterior={type(posterior).__name__} has no categories"):
                posterior.logits(torch.randn(self.batch, self.features))


class TestStraightThrough:
    def test_gradients_are_those_of_the_softmax(self) -> None:
        torch.manual_seed(0)
        hard = CategoricalPosterior(straight_through="argmax").build(4, Categorical(3)).double()
        soft = CategoricalPosterior().build(4, Categorical(3)).double()
        soft.load_state_dict(hard.state_dict())
        features, weights = torch.randn(6, 4).double(), torch.randn(6, 3).double()
        gradients = []
        for posterior in (hard, soft):
            inputs = features.clone().requires_grad_()
            (posterior(inputs) * weights).sum().backward()
            gradients.append(inputs.grad)
        assert_close(gradients[0], gradients[1], rtol=0, atol=1e-14)

    def test_draws_follow_the_posterior(self) -> None:
        torch.manual_seed(0)
        posterior = CategoricalPosterior(1.0, standardize=False, straight_through="sample").build(4, Categorical(3))
        features = torch.randn(1, 4)
        p, n = posterior.logits(features).softmax(1)[0], 20000
        drawn = posterior(features.expand(n, -1), torch.randn(n, 3))
        assert ((drawn == 0) | (drawn == 1)).all()
        assert ((drawn.mean(0) - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


class TestGaussianPosterior:
    def test_by_hand(self) -> None:
        torch.manual_seed(0)
        posterior = GaussianPosterior(initial_scale=0.3).build(4, Gaussian(2))
        features, noise = torch.randn(5, 4), torch.randn(5, 2)
        assert posterior.noise_dim == 2
        assert_close(posterior(features, noise), posterior.mean(features) + 0.3 * noise)
        assert torch.equal(posterior(features), posterior.mean(features))


class TestCategoricalPosterior:
    def test_logits_are_standardised_over_the_batch(self) -> None:
        torch.manual_seed(0)
        posterior = CategoricalPosterior(gain=2.5).build(4, Categorical(3)).double()
        logits = posterior.logits(100 * torch.randn(64, 4).double() + 7)
        assert_close(logits.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-10)
        assert_close(logits.std(0, correction=0), torch.full((3,), 2.5).double(), rtol=1e-6, atol=0)

    def test_plain_logits_ignore_the_batch(self) -> None:
        torch.manual_seed(0)
        posterior = CategoricalPosterior(gain=2.5, standardize=False).build(4, Categorical(3)).double()
        features = torch.randn(6, 4).double()
        assert_close(posterior.logits(features[:1]), posterior.logits(features)[:1])
        assert_close(posterior.logits(features), posterior.linear(features))


# ------------------------------------------------------------------------------------------ encoders and discriminators


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (2, 1, 1)])
def test_encoder(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[name]().build(shape)
    features = encoder(torch.rand(6, *shape))
    assert features.shape == (6, encoder.num_features)
    (features * torch.randn_like(features)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in encoder.parameters())  # as DDP wants it
    encoder.eval()
    x = torch.rand(4, *shape)
    assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)  # no batch statistics in evaluation mode


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator(name: str) -> None:
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[name]().build(3)
    z = torch.randn(6, 3, requires_grad=True)
    logits = discriminator(z)
    assert logits.shape == (6,)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (z, *discriminator.parameters()))
    assert_close(discriminator(z[:1]), logits[:1])  # an image's verdict does not depend on the others


# ------------------------------------------------------------------------------------------------ batch normalisation


def batch_norms(channels: int, dims: int, affine: bool) -> tuple[BatchNorm, nn.Module]:
    """Ours and that of torch, with the same random parameters, in float64."""
    torch.manual_seed(0)
    ours = BatchNorm(channels, affine=affine).double()
    theirs = (nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d)(channels, affine=affine).double()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        b.data.copy_(nn.init.normal_(a))
    return ours, theirs


def close(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 2)], ids=["1d", "2d"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
class TestBatchNorm:
    def test_equals_that_of_torch(self, shape: tuple[int, ...], affine: bool) -> None:
        ours, theirs = batch_norms(3, len(shape), affine)
        with running_statistics(ours):
            for _ in range(3):
                x = (3 * torch.randn(shape).double() + 1).requires_grad_()
                same = x.detach().clone().requires_grad_()
                out = torch.randn(shape).double()
                close(ours(x), theirs(same))
                (ours_grad,) = torch.autograd.grad(BatchNorm.forward(copy.deepcopy(ours), x), x, out)
                (theirs_grad,) = torch.autograd.grad(copy.deepcopy(theirs)(same), same, out)
                close(ours_grad, theirs_grad)
        close(ours.running_mean, theirs.running_mean)
        close(ours.running_var, theirs.running_var)
        x = torch.randn(shape).double()
        close(ours.eval()(x), theirs.eval()(x))
        close(ours(x)[:1], ours(x[:1]))

    def test_running_statistics_move_only_in_their_context(self, shape: tuple[int, ...], affine: bool) -> None:
        ours, _ = batch_norms(3, len(shape), affine)
        other = BatchNorm(3)
        model = nn.Sequential(ours, nn.ReLU())
        before = copy.deepcopy(dict(ours.named_buffers()))

        def unchanged() -> bool:
            return all(torch.equal(before[name], buffer) for name, buffer in ours.named_buffers())

        x = torch.randn(shape).double() + 5
        with running_statistics(other):
            model(x)
        assert unchanged()
        with running_statistics(model):
            model.eval()(x)
            assert unchanged()
            model.train()(x)
            assert not unchanged()
        before = copy.deepcopy(dict(ours.named_buffers()))
        with pytest.raises(KeyError), running_statistics(model):
            raise KeyError
        model(x)
        assert unchanged()


def test_batch_norm_refuses_a_single_image() -> None:
    with pytest.raises(ConfigurationError, match=r"batch of one image .* images >= 2"):
        BatchNorm(3)(torch.rand(1, 3))
    BatchNorm(3)(torch.rand(1, 3, 2, 2))  # four pixels of one image are four numbers
    BatchNorm(3).eval()(torch.rand(1, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_batch_norm_of_many_processes_sums_in_float32(dtype: torch.dtype) -> None:
    """Half of a precision knows no number of pixels above 256 (bfloat16), or 65504 (float16), for certain."""
    x = (8 * torch.randn(5, 2, 131, 103, generator=keyed_generator("half")) + 100).to(dtype)
    one, many = BatchNorm(2), BatchNorm(2)
    with running_statistics(one, many):
        expected = one(x.float())
        got = many._forward_distributed(x)
    assert got.dtype == one(x).dtype
    assert_close(got.float(), expected, rtol=0, atol=0.03)
    for name, buffer in one.named_buffers():
        assert_close(many.get_buffer(name), buffer, rtol=1e-4, atol=0)


def shard(rank: int) -> Tensor:
    """Images of one of two processes; the second has another mean."""
    return torch.randn(3, 2, 2, 3, generator=keyed_generator("shard", rank), dtype=torch.float64) + 2 * rank


def normalise(norm: BatchNorm, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients of a loss that is a sum over the global batch, running statistics."""
    x.requires_grad_()
    with running_statistics(norm):
        y = norm(x)
    (y.sin() * (1 + x.detach())).sum().backward()
    gradients = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(norm.named_buffers())}  # type: ignore[dict-item]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_batch_norm_on_two_processes_equals_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    norm, _ = batch_norms(2, 4, True)

    def run(rank: int) -> None:
        dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=rank, world_size=2)
        all_reduce, calls = dist.all_reduce, []
        monkeypatch.setattr(dist, "all_reduce", lambda x: (calls.append(1), all_reduce(x)))
        result = normalise(norm, shard(rank))
        torch.save({**result, "collectives": torch.tensor(len(calls))}, f"{rank}.pt")
        dist.destroy_process_group()

    assert [wait(pid, timeout=120) for pid in start_as_ranks(2, run)] == [0, 0], Path("rank0").read_text()
    ranks = [torch.load(f"{rank}.pt") for rank in range(2)]
    assert [rank["collectives"].item() for rank in ranks] == [2, 2]  # one forward, one backward
    one = normalise(norm, torch.cat([shard(0), shard(1)]))
    for name in ("y", "x"):
        close(torch.cat([rank[name] for rank in ranks]), one[name])
    for name in ("weight", "bias"):
        close(ranks[0][name] + ranks[1][name], one[name])
    for name in ("running_mean", "running_var"):
        close(ranks[0][name], one[name])
        close(ranks[1][name], one[name])


# --------------------------------------------------------------------------------------------------------------- draws


class TestRowDraws:
    def test_processes_take_their_rows_of_the_global_batch(self) -> None:
        one = RowDraws(3, 17).normal("noise", 6, 2, 4)
        parts = [RowDraws(3, 17, rank=rank, world_size=3).normal("noise", 2, 2, 4) for rank in range(3)]
        assert torch.equal(torch.cat(parts), one)

    def test_every_part_of_the_key_matters(self) -> None:
        draws = [
            RowDraws(*key).uniform(purpose, 4, 3)
            for key, purpose in [((0, 1), "a"), ((1, 11), "a"), ((11, 1), "a"), ((0, 2), "a"), ((0, 1), "b")]
        ]
        assert len({tuple(d.flatten().tolist()) for d in draws}) == len(draws)
        assert torch.equal(draws[0], RowDraws(0, 1).uniform("a", 4, 3))

    def test_are_float32_whatever_the_default(self) -> None:
        expected = [RowDraws(0).normal("a", 3, 2), RowDraws(0).uniform("a", 3, 2)]
        with default_dtype(torch.float64):
            drawn = [RowDraws(0).normal("a", 3, 2), RowDraws(0).uniform("a", 3, 2)]
        assert_close(drawn, expected, rtol=0, atol=0)

    def test_leave_the_global_stream_alone(self) -> None:
        state = torch.get_rng_state()
        RowDraws(0).normal("a", 3, 2)
        assert torch.equal(torch.get_rng_state(), state)

    def test_are_the_same_on_every_machine(self) -> None:
        assert keyed_generator("sample", 0).initial_seed() == 7802069131476947027
        assert (RowDraws(0).uniform("a", 2, 3) * 2**24).tolist() == [
            [9941047.0, 274060.0, 13584425.0],
            [876938.0, 131627.0, 7237899.0],
        ]

    def test_count_splitmix64(self) -> None:
        """Its published numbers for the seed 1234567, and any part of them by itself."""
        published = [
            6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
        ]  # fmt: skip
        gamma = 0x9E3779B97F4A7C15
        assert [n % 2**64 for n in split_mix(1234567, gamma, 0, 5).tolist()] == published
        assert [n % 2**64 for n in split_mix(1234567, gamma, 3, 2).tolist()] == published[3:]

    def test_a_process_makes_its_own_rows_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []

        def counted(start: int, gamma: int, first: int, count: int, device: Any) -> torch.Tensor:
            made.append(count)
            return split_mix(start, gamma, first, count, device)

        monkeypatch.setattr("pixelgan_lightning.random.split_mix", counted)
        for world_size in (1, 64):
            draws = RowDraws(0, rank=world_size - 1, world_size=world_size)
            draws.uniform("a", 5, 7)
            Categorical(3).keyed(draws, "b", 6)
        assert made == [20, 6, 20, 6]

    def test_are_independent_of_each_other_and_uniform(self) -> None:
        """Of neighbours in a row, in a column and in the step before: correlations, and a chi-squared test each."""
        steps = torch.stack([RowDraws(5, step).uniform("a", 400, 500) for step in range(2)]).double()
        pairs = [
            (steps[0, :, :-1], steps[0, :, 1:]), (steps[0, :-1], steps[0, 1:]), (steps[0], steps[1]),
            (steps[0, :, :-2], steps[0, :, 2:]), (steps[0, :100], RowDraws(5, 0).uniform("b", 100, 500).double()),
        ]  # fmt: skip
        for one, other in pairs:
            cells = 16 * (16 * one).long() + (16 * other).long()
            counts = cells.flatten().bincount(minlength=256).double()
            expected = counts.sum() / 256
            assert chi2.sf(((counts - expected).square() / expected).sum().item(), 255) > 1e-4
        normal = RowDraws(5).normal("a", 1000, 201).double()
        assert kstest(normal.flatten(), "norm").pvalue > 1e-4
        assert kstest(steps.flatten(), "uniform").pvalue > 1e-4

    def test_permutations_are_equally_likely(self) -> None:
        orders = torch.stack([permutation(3, 7, number) for number in range(3000)])
        assert torch.equal(orders.sort(1).values, torch.arange(3).expand(3000, 3))
        counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1].double()
        assert len(counts) == 6
        assert chi2.sf(((counts - 500).square() / 500).sum().item(), 5) > 1e-4

    def test_normal_draws_are_symmetric_and_finite(self) -> None:
        ends = normal_from_uniform(torch.tensor([0.0, 1 - 2**-24, 0.25, 0.75 - 2**-24]))
        assert_close(ends, torch.tensor([-5.4199, 5.4199, -0.67449, 0.67449]), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- augmentations


@pytest.mark.parametrize("make", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
class TestAugmentation:
    def test_a_view_is_an_image_of_the_same_shape(self, make: Callable[[], Augmentation]) -> None:
        for shape in ((5, 1, 8, 8), (3, 3, 7, 6), (2, 2, 5, 9)):
            view = make()
            y = view(torch.rand(shape), torch.rand(shape[0], view.num_draws))
            assert y.shape == shape
            assert y.dtype == torch.float32
            assert y.min() >= 0
            assert y.max() <= 1

    def test_depends_on_its_own_image_and_draws_alone(self, make: Callable[[], Augmentation]) -> None:
        """So that draws keyed by row give the same views on any number of processes."""
        view, x = make(), torch.rand(4, 2, 8, 8).double()
        draws, state = torch.rand(4, view.num_draws).double(), torch.get_rng_state()
        y = view(x, draws)
        assert torch.equal(torch.get_rng_state(), state)
        for row in range(4):
            assert_close(view(x[row : row + 1], draws[row : row + 1])[0], y[row], rtol=0, atol=1e-12)
        assert not torch.allclose(view(x, 1 - draws), y)


class TestRandomAffine:
    def test_middle_draws_leave_the_image_alone(self) -> None:
        x = torch.rand(3, 2, 7, 6).double()
        view = RandomAffine()
        assert_close(view(x, torch.full((3, view.num_draws), 0.5).double()), x, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("entry", "axis"), [(4, 3), (5, 2)], ids=["across", "down"])
    def test_translation_by_whole_pixels(self, entry: int, axis: int) -> None:
        x = torch.rand(2, 1, 8, 8).double()
        view = RandomAffine(translate=0.25)  # up to two of eight pixels
        draws = torch.full((2, view.num_draws), 0.5).double()
        draws[:, entry] = 1.0
        moved = x.roll(-2, axis)
        moved.narrow(axis, 6, 2).zero_()
        assert_close(view(x, draws), moved, rtol=0, atol=1e-12)

    def test_quarter_turn(self) -> None:
        x = torch.rand(1, 1, 5, 5).double()
        draws = torch.full((1, 6), 0.5).double()
        draws[:, 0] = 1.0
        assert_close(RandomAffine(degrees=90)(x, draws), x.rot90(1, (2, 3)), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("shape", [(6, 14), (14, 6)], ids=str)
    def test_sides_of_different_length_do_not_matter(self, shape: tuple[int, int]) -> None:
        """A view of an image is the middle of the same view of the image in a black square."""
        x, view = torch.rand(3, 1, *shape).double(), RandomAffine(degrees=80, translate=0)
        draws = torch.rand(3, view.num_draws).double()
        top, left = (14 - shape[0]) // 2, (14 - shape[1]) // 2
        square = F.pad(x, (left, left, top, top))
        middle = view(square, draws)[:, :, top : 14 - top, left : 14 - left]
        assert_close(view(x, draws), middle, rtol=0, atol=1e-12)

    def test_the_border_may_go_on_outside(self) -> None:
        x = torch.rand(2, 1, 8, 8).double()
        view = RandomAffine(translate=0.25, outside="border")
        draws = torch.full((2, view.num_draws), 0.5).double()
        draws[:, 4] = 1.0
        moved = torch.cat([x[..., 2:], x[..., -1:].expand(-1, -1, -1, 2)], -1)
        assert_close(view(x, draws), moved, rtol=0, atol=1e-12)

    def test_each_image_has_its_own_view(self) -> None:
        x, view = torch.rand(1, 1, 9, 9).expand(2, -1, -1, -1), RandomAffine()
        one, two = view(x, torch.rand(2, view.num_draws))
        assert not torch.equal(one, two)


class TestRandomColour:
    def test_middle_draws_leave_the_image_alone(self) -> None:
        x = torch.rand(3, 4, 5, 5).double()
        assert_close(RandomColour()(x, torch.full((3, 5), 0.5).double()), x, rtol=0, atol=1e-12)

    def test_by_hand(self) -> None:
        """Contrast around the mean, a shift of each channel, the ends of the range, inversion."""
        x = torch.tensor([0.4, 0.6], dtype=torch.float64).view(1, 1, 1, 2).expand(2, 3, 1, 2)
        draws = torch.tensor([[1.0, 0.5, 0.75, 0.0, 0.9], [0.5, 0.5, 0.5, 0.5, 0.2]], dtype=torch.float64)
        one, two = RandomColour(contrast=math.log(2), brightness=0.4, invert=0.5)(x, draws)
        assert_close(
            one[:, 0], torch.tensor([[0.3, 0.7], [0.5, 0.9], [0.0, 0.3]], dtype=torch.float64), rtol=0, atol=1e-12
        )
        assert_close(two[:, 0], torch.tensor([[0.6, 0.4]] * 3, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_never_or_always_inverts(self) -> None:
        x, draws = torch.rand(5, 1, 3, 3), torch.rand(5, 5)
        assert_close(1 - RandomColour(invert=0)(x, draws), RandomColour(invert=1)(x, draws))


class TestChain:
    def test_each_step_has_draws_of_its_own(self) -> None:
        x, first, second = torch.rand(4, 3, 6, 6), RandomAffine(), RandomColour(invert=0.5)
        view = Chain([first, second])
        draws = torch.rand(4, view.num_draws)
        assert torch.equal(view(x, draws), second(first(x, draws[:, :6]), draws[:, 6:]))


class TestMilder:
    def test_the_middle_half_of_ranges(self) -> None:
        draws = torch.rand(9, 6)
        assert torch.equal(RandomAffine().milder(draws), 0.25 + 0.5 * draws)

    def test_probabilities_stay(self) -> None:
        """Views of evaluation are inverted as often as those of training, and each of them is a view."""
        draws = torch.rand(9, 12)
        milder = Chain([RandomApply(RandomAffine(), p=0.1), RandomColour(invert=0.1)]).milder(draws)
        assert torch.equal(milder[:, [*range(6), *range(7, 11)]], 0.25 + 0.5 * draws[:, [*range(6), *range(7, 11)]])
        assert torch.equal(milder[:, 11], draws[:, 11])
        assert (milder[:, 6] < 0.1).all()


class TestRandomApply:
    def test_some_images_stay_as_they_are(self) -> None:
        """An image is changed where its last draw is below ``p``, by the augmentation's own draws."""
        x, affine = torch.rand(50, 1, 6, 6), RandomAffine()
        view, draws = RandomApply(affine, p=0.7), torch.rand(50, 7)
        y, changed = view(x, draws), draws[:, 6] < 0.7
        assert 20 < changed.sum() < 50
        assert torch.equal(y[~changed], x[~changed])
        assert torch.equal(y[changed], affine(x, draws[:, :6])[changed])
        assert torch.equal(RandomApply(affine, p=0)(x, draws), x)
        assert torch.equal(RandomApply(affine, p=1)(x, draws), affine(x, draws[:, :6]))


# ----------------------------------------------------------------------------------------------------------- agreement


class TestPairInformation:
    def test_by_hand(self) -> None:
        """Certain and balanced: log K. Independent: 0. In general that of the symmetric joint distribution."""
        one_hot = torch.eye(3).double().repeat(4, 1)
        assert_close(pair_information(one_hot, one_hot).item(), math.log(3), rtol=0, atol=1e-9)
        flat = torch.full((5, 3), 1 / 3).double()
        assert_close(pair_information(flat, flat).item(), 0.0, rtol=0, atol=1e-12)
        p, q = torch.rand(2, 7, 3).double().softmax(2)
        joint = torch.stack([torch.outer(a, b) for a, b in zip(p, q, strict=True)]).mean(0)
        joint = (joint + joint.T) / 2
        reference = (joint * (joint / torch.outer(joint.sum(0), joint.sum(1))).log()).sum()
        assert_close(pair_information(p, q), reference, rtol=0, atol=1e-12)

    def test_one_category_for_all_gives_nothing(self) -> None:
        same = F.one_hot(torch.zeros(6, dtype=torch.long), 3).double().requires_grad_()
        value = pair_information(same, same)
        assert_close(value.item(), 0.0, rtol=0, atol=1e-9)
        value.backward()
        assert same.grad is not None
        assert torch.isfinite(same.grad).all()
