"""Likelihoods: they sum to one through a decoder, and samples follow the inverse CDF."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture, Likelihood

# A new likelihood joins the tests of the contract by being listed here.
LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "levels2": CategoricalLevels(2),
    "levels3": CategoricalLevels(3),
    "levels5": CategoricalLevels(5),
    "levels256": CategoricalLevels(256),
    "logistics2": DiscretizedLogisticMixture(2, levels=2),
    "logistics5": DiscretizedLogisticMixture(3, levels=5),
    "logistics256": DiscretizedLogisticMixture(2),
}
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)

SINGLE = {name: likelihood for name, likelihood in LIKELIHOODS.items() if likelihood.uniforms_per_pixel(1) == 1}
one_draw = pytest.mark.parametrize("likelihood", SINGLE.values(), ids=SINGLE)

LARGEST = 1 - 2**-53
"""The largest float64 below 1."""


def all_images(shape: tuple[int, int, int], levels: int) -> Tensor:
    values = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.float64).view(-1, *shape) / (levels - 1)


def below(likelihood: Likelihood) -> Tensor:
    """The values of one channel, in order."""
    return torch.arange(likelihood.levels, dtype=torch.float64) / (likelihood.levels - 1)


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        (Bernoulli(), (1, 3, 3)),
        (Bernoulli(), (3, 1, 2)),
        (CategoricalLevels(2), (1, 3, 3)),
        (CategoricalLevels(3), (1, 2, 2)),
        (CategoricalLevels(3), (3, 1, 2)),
        (DiscretizedLogisticMixture(2, levels=3), (1, 2, 2)),
        (DiscretizedLogisticMixture(2, levels=3), (3, 1, 2)),
        (DiscretizedLogisticMixture(3, levels=2), (4, 1, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Likelihood) else "x".join(map(str, value)),
)
@pytest.mark.parametrize("bias", ["location_invariant", "location_dependent"])
@pytest.mark.parametrize("layers", [0, 2])
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(
    likelihood: Likelihood, shape: tuple[int, int, int], bias: str, layers: int
) -> None:
    torch.manual_seed(0)
    condition = "every_layer" if layers else "input_layer"
    decoder = GatedPixelCNN(6, layers, first_kernel=3, bias=bias, condition=condition)  # type: ignore[arg-type]
    decoder = decoder.build(shape, 2, likelihood).double()
    for p in decoder.parameters():
        p *= 2
    images = all_images(shape, likelihood.levels)
    for z in torch.randn(2, 2).double():
        log_p = likelihood.log_prob(decoder(images, z.expand(len(images), -1)), images)
        assert log_p.std() > 0.1  # not the uniform distribution
        assert_close(log_p.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-12)


@one_draw
class TestOneDraw:
    @pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
    def test_frequencies_are_the_probabilities(self, likelihood: Likelihood, temperature: float) -> None:
        """Over n evenly spaced uniforms every value is drawn n p times, up to rounding."""
        torch.manual_seed(0)
        n = 4000
        params = 3 * torch.randn(1, likelihood.params_per_pixel(1)).double()
        uniforms = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
        drawn = likelihood.sample(params.expand(n, -1), uniforms, temperature)
        assert drawn.shape == (n, 1)
        x = below(likelihood)
        frequencies = torch.stack([(drawn == value).double().mean() for value in x])
        tempered = (params / temperature).view(1, -1, 1, 1).expand(len(x), -1, 1, 1)
        assert_close(frequencies, likelihood.log_prob(tempered, x.view(-1, 1, 1, 1)).exp(), rtol=0, atol=1.001 / n)

    def test_probability_zero_is_never_drawn(self, likelihood: Likelihood) -> None:
        """Not even at the ends of [0, 1): with the whole mass on one value that value is drawn from any uniform."""
        uniforms = torch.tensor([[0.0], [0.5], [LARGEST]], dtype=torch.float64)
        one_hot = 1e4 * (2 * torch.eye(likelihood.params_per_pixel(1), dtype=torch.float64) - 1)
        for params in (one_hot[0], one_hot[-1], one_hot[len(one_hot) // 2], -one_hot[0]):
            x = below(likelihood).view(-1, 1, 1, 1)
            p = likelihood.log_prob(params.view(1, -1, 1, 1).expand(len(x), -1, -1, -1), x).exp()
            drawn = likelihood.sample(params.expand(3, -1), uniforms)
            positive = below(likelihood)[p > 0]
            assert torch.isin(drawn, positive).all()


@every_likelihood
class TestContract:
    def test_probabilities_of_one_value_sum_to_one(self, likelihood: Likelihood) -> None:
        torch.manual_seed(0)
        params = 3 * torch.randn(1, likelihood.params_per_pixel(1), 1, 1).double()
        x = below(likelihood).view(-1, 1, 1, 1)
        log_p = likelihood.log_prob(params.expand(len(x), -1, -1, -1), x)
        assert log_p.shape == (likelihood.levels,)
        assert_close(log_p.exp().sum().item(), 1.0, rtol=0, atol=1e-12)

    def test_sums_over_pixels_and_channels(self, likelihood: Likelihood) -> None:
        torch.manual_seed(0)
        shape = (3, 2, 4)
        x = torch.randint(likelihood.levels, (5, *shape)).double() / (likelihood.levels - 1)
        params = torch.randn(5, likelihood.params_per_pixel(3), 2, 4).double()
        one_by_one = torch.zeros(5).double()
        for row, column in itertools.product(range(2), range(4)):
            here = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
            if likelihood.channels_jointly:
                one_by_one += likelihood.log_prob(params[here], x[here])
            else:
                channels = zip(params[here].chunk(3, 1), x[here].chunk(3, 1), strict=True)
                one_by_one += sum(likelihood.log_prob(p, value) for p, value in channels)
        assert_close(likelihood.log_prob(params, x), one_by_one, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, likelihood: Likelihood, half: torch.dtype) -> None:
        torch.manual_seed(0)
        x = torch.randint(likelihood.levels, (4, 1, 9, 9)).float() / (likelihood.levels - 1)
        params = (3 * torch.randn(4, likelihood.params_per_pixel(1), 9, 9)).to(half)
        log_p = likelihood.log_prob(params, x)
        assert log_p.dtype == torch.float32
        assert torch.equal(log_p, likelihood.log_prob(params.float(), x))
        n = 1000
        pixel, uniforms = params[:1, :, 0, 0].expand(n, -1), torch.rand(n, likelihood.uniforms_per_pixel(1))
        drawn = likelihood.sample(pixel, uniforms, 0.7)
        assert torch.equal(drawn, likelihood.sample(pixel.float(), uniforms, 0.7).to(drawn))

    def test_check_accepts_every_level_in_float32(self, likelihood: Likelihood) -> None:
        likelihood.check(below(likelihood).float())

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -0.01, 1.01, 2.0, 255.0])
    def test_check_refuses(self, likelihood: Likelihood, value: float) -> None:
        x = torch.zeros(2, 1, 3, 3)
        x[1, 0, 2, 1] = value
        message = rf"image value {value:.6g} .*levels={likelihood.levels}"
        with pytest.raises(ConfigurationError, match=message) as caught:
            likelihood.check(x)
        assert "\n" not in str(caught.value)

    def test_check_refuses_values_between_levels(self, likelihood: Likelihood) -> None:
        off_grid = 0.5 / (likelihood.levels - 1)
        with pytest.raises(ConfigurationError, match="not usable"):
            likelihood.check(torch.tensor([0.0, off_grid, 1.0]))


class TestBernoulli:
    def test_by_hand(self) -> None:
        p = torch.tensor([0.2, 0.9], dtype=torch.float64)
        params = p.logit().view(1, 1, 1, 2)
        x = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
        assert Bernoulli().log_prob(params, x).item() == pytest.approx(math.log(0.2) + math.log(0.1), abs=1e-12)

    def test_boundaries(self) -> None:
        uniforms = torch.tensor([[0.0], [0.5 - 2**-54], [0.5], [LARGEST]], dtype=torch.float64)
        drawn = Bernoulli().sample(torch.zeros(4, 1).double(), uniforms)
        assert drawn.squeeze(1).tolist() == [1, 1, 0, 0]


class TestCategoricalLevels:
    def test_by_hand(self) -> None:
        p = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)  # two channels of one pixel
        x = torch.tensor([1.0, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
        log_p = CategoricalLevels(3).log_prob(p.log().view(1, 6, 1, 1), x)
        assert log_p.item() == pytest.approx(math.log(0.7) + math.log(0.3), abs=1e-12)

    def test_boundaries(self) -> None:
        """A level owns its lower boundary: it is drawn from u in [P(x < level), P(x <= level))."""
        p = torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0], dtype=torch.float64)
        uniforms = [0.0, 0.25 - 2**-54, 0.25, 0.75 - 2**-53, 0.75, LARGEST]
        drawn = CategoricalLevels(5).sample(p.log().expand(6, -1), torch.tensor(uniforms, dtype=torch.float64)[:, None])
        assert (4 * drawn).squeeze(1).tolist() == [1, 1, 2, 2, 3, 3]

    def test_values_are_rounded_to_their_level(self) -> None:
        """A grey value that was computed in another way than ``level / (L - 1)`` may be off in the last digit."""
        likelihood = CategoricalLevels(256)
        x, params = below(likelihood).view(-1, 1, 1, 1), torch.randn(1, 256, 1, 1).double().expand(256, -1, -1, -1)
        for off in (-1e-6, 1e-6):
            assert torch.equal(likelihood.log_prob(params, x + off), likelihood.log_prob(params, x))

    def test_levels_below_two(self) -> None:
        with pytest.raises(ConfigurationError, match=r"levels=1 .* >= 2"):
            CategoricalLevels(1)


class TestDiscretizedLogisticMixture:
    @staticmethod
    def slow(params: Tensor, x: Tensor, mixtures: int, levels: int) -> float:
        """``log p`` of one pixel, from differences of the CDF, channel after channel."""
        channels = len(x)
        rows = params.view(-1, mixtures)
        total = 0.0
        for m, weight in enumerate(rows[0].softmax(0)):
            p, pair = weight.item(), 0
            for c in range(channels):
                mean = rows[1 + c, m].item()
                for b in range(c):
                    mean += math.tanh(rows[1 + 2 * channels + pair, m].item()) * x[b].item()
                    pair += 1
                scale = math.exp(rows[1 + channels + c, m].item())
                cdf = [1 / (1 + math.exp(-(x[c].item() + side / (levels - 1) - mean) / scale)) for side in (-1, 1)]
                below = 0.0 if x[c] == -1 else cdf[0]
                above = 1.0 if x[c] == 1 else cdf[1]
                p *= above - below
            total += p
        return math.log(total)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_equals_a_slow_reference(self, channels: int) -> None:
        torch.manual_seed(0)
        likelihood = DiscretizedLogisticMixture(3, levels=5)
        params = torch.randn(6, likelihood.params_per_pixel(channels)).double()
        x = torch.randint(5, (6, channels)).double() / 4
        log_p = likelihood.log_prob(params[:, :, None, None], x[:, :, None, None])
        expected = [self.slow(p, 2 * v - 1, 3, 5) for p, v in zip(params, x, strict=True)]
        assert_close(log_p, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("levels", [2, 5])
    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_frequencies_are_the_probabilities(self, levels: int, temperature: float) -> None:
        """Over a grid of uniforms every pair of values of two channels is drawn as often as it should be."""
        torch.manual_seed(0)
        n = 60
        likelihood = DiscretizedLogisticMixture(2, levels)
        params = torch.randn(1, likelihood.params_per_pixel(2)).double()
        line = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        uniforms = torch.cartesian_prod(line, line, line)
        drawn = likelihood.sample(params.expand(len(uniforms), -1), uniforms, temperature)
        pairs = torch.cartesian_prod(torch.arange(levels), torch.arange(levels)).double() / (levels - 1)
        frequencies = torch.stack([(drawn == pair).all(1).double().mean() for pair in pairs])
        tempered = params.view(-1, 2).clone()  # sharper weights, narrower components
        tempered[0] /= temperature
        tempered[3:5] += math.log(temperature)
        expected = likelihood.log_prob(tempered.view(1, -1, 1, 1).expand(len(pairs), -1, 1, 1), pairs[:, :, None, None])
        assert_close(frequencies, expected.exp(), rtol=0, atol=4 / n)

    @pytest.mark.parametrize("scale", [-60.0, 0.0, 60.0])
    @pytest.mark.parametrize("mean", [-1e4, 0.0, 1e4])
    def test_extremes_are_finite_with_gradients(self, scale: float, mean: float) -> None:
        likelihood = DiscretizedLogisticMixture(1, levels=256)
        params = torch.tensor([[0.0, mean, scale]]).view(1, 3, 1, 1).requires_grad_()
        for value in (0.0, 128 / 255, 1.0):
            log_p = likelihood.log_prob(params, torch.full((1, 1, 1, 1), value))
            assert torch.isfinite(log_p)
            (gradient,) = torch.autograd.grad(log_p, params)
            assert torch.isfinite(gradient).all()
