"""Decoders: what a pixel may see, how the code enters, and that the fast sampler draws what the plain one draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakecuda import Replays
from torch import Tensor
from torch.testing import assert_close

from pixelgan_lightning.component import construct
from pixelgan_lightning.decoders import (
    ConvDecoder,
    Decoder,
    GatedPixelCNN,
    Known,
    cpu_layer,
    draw_uniforms,
    incremental,
    sample_by_full_passes,
)
from pixelgan_lightning.decoders.gated_layers import GatedLayer
from pixelgan_lightning.decoders.incremental import over_threads
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture, Likelihood

CODE_DIM = 3


def gated(**options: Any) -> GatedPixelCNN:
    return GatedPixelCNN(**{"channels": 4, "layers": 2, "first_kernel": 3, "map_channels": 2, **options})


class Palette(Likelihood):
    """A softmax over all 2^C colours of a pixel: the smallest likelihood that models the channels jointly."""

    levels = 2
    channels_jointly = True

    def params_per_pixel(self, channels: int) -> int:
        return 2**channels

    def uniforms_per_pixel(self, channels: int) -> int:
        return 1

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        colour = sum(x[:, c].round().long() << c for c in range(x.shape[1]))
        return -F.cross_entropy(params, colour, reduction="none").flatten(1).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        colour = (uniforms >= (params / temperature).softmax(1).cumsum(1)[:, :-1]).sum(1, keepdim=True)
        return (colour >> torch.arange(params.shape[1].bit_length() - 1) & 1).to(params)


# A new decoder, or a new option of one, joins all tests of this file by being listed here.
DECODERS: dict[str, Decoder] = {
    "location_invariant": gated(),
    "location_dependent": gated(bias="location_dependent"),
    "kernel5": gated(kernel=5, layers=1),
    "first_kernel5": gated(first_kernel=5),
    "first_kernel7": gated(first_kernel=7, layers=1, bias="location_dependent"),
    "dilated": gated(dilations=(1, 2)),
    "dilated_kernel5": gated(kernel=5, dilations=(2, 1), bias="location_dependent"),
    "no_layers": gated(layers=0, condition="input_layer"),
    "one_layer": gated(layers=1),
    "input_layer": gated(condition="input_layer"),
    "input_layer_map": gated(condition="input_layer", bias="location_dependent"),
}
LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "levels3": CategoricalLevels(3),
    "palette": Palette(),
    "logistics": DiscretizedLogisticMixture(2, levels=3),
}

every_decoder = pytest.mark.parametrize("name", DECODERS)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)


def build(
    name: str, shape: tuple[int, int, int], likelihood: Likelihood | None = None, seed: int = 0, spread: float = 1.0
) -> Decoder:
    """A decoder of the list with random weights, in float64; ``spread`` multiplies its weights (not its biases)."""
    torch.manual_seed(seed)
    decoder = construct(DECODERS[name], Decoder).build(shape, CODE_DIM, likelihood or Bernoulli()).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p *= spread if p.dim() > 1 else 1
    return decoder


def random_images(n: int, shape: tuple[int, int, int], levels: int = 2) -> Tensor:
    return torch.randint(levels, (n, *shape)).double() / (levels - 1)


def dependence(decoder: Decoder, x: Tensor, z: Tensor) -> Tensor:
    """Which values each pixel's parameters depend on: bool ``[row, column, group, row', column', channel']``."""
    groups = 1 if decoder.likelihood.channels_jointly else len(x)
    jacobian = torch.func.jacrev(lambda image: decoder(image[None], z)[0].unflatten(0, (groups, -1)))(x)
    seen = (jacobian != 0).any(1)  # over the parameters: [group, row, column, channel', row', column']
    return seen.permute(1, 2, 0, 4, 5, 3)


def reported(decoder: Decoder) -> Tensor:
    """The same from ``receptive_field()``: all channels of the pixels in it, and the earlier channels of the pixel."""
    channels, height, width = decoder.image_shape
    groups = 1 if decoder.likelihood.channels_jointly else channels
    field = decoder.receptive_field()
    seen = torch.zeros(height, width, groups, height, width, channels, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            for r in range(height):
                for c in range(width):
                    seen[i, j, :, r, c] = (r - i, c - j) in field
            for group in range(groups):
                seen[i, j, group, i, j, :group] = True
    return seen


@every_decoder
@pytest.mark.parametrize(
    ("shape", "likelihood"),
    [((1, 9, 7), Bernoulli()), ((3, 5, 7), Bernoulli()), ((2, 3, 5), Palette())],
    ids=["grey", "colour", "jointly"],
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
class TestCausality:
    def test_no_pixel_sees_itself_or_what_comes_later(
        self, name: str, shape: tuple[int, int, int], likelihood: Likelihood, training: bool
    ) -> None:
        decoder = build(name, shape, likelihood).train(training)
        seen = (
            dependence(decoder, torch.rand(shape).double(), torch.randn(1, CODE_DIM).double()).flatten(3).flatten(0, 1)
        )
        assert seen.any()
        for pixel, groups in enumerate(seen):
            for group, values in enumerate(groups):  # in raster order, the channels of a pixel one after the other
                assert not values[pixel * shape[0] + group :].any()

    def test_the_receptive_field_is_the_reported_one(
        self, name: str, shape: tuple[int, int, int], likelihood: Likelihood, training: bool
    ) -> None:
        seen = torch.zeros((), dtype=torch.bool)
        for seed in range(6):  # a unit of the head that is off hides what it would see
            decoder = build(name, shape, likelihood, seed=seed).train(training)
            seen = seen | dependence(decoder, torch.rand(shape).double(), torch.randn(1, CODE_DIM).double())
        assert torch.equal(seen, reported(decoder))


def test_receptive_field_by_hand() -> None:
    above = {(-1, -1), (-1, 0), (-1, 1)}
    assert build("no_layers", (1, 3, 3)).receptive_field() == above | {(0, -1)}
    one = build("one_layer", (1, 3, 3)).receptive_field()
    assert one == {(r, c) for r in (-2, -1) for c in range(-2, 3)} | {(0, -1), (0, -2)}


@every_decoder
@every_likelihood
def test_output_does_not_depend_on_other_images_of_the_batch(name: str, likelihood: Likelihood) -> None:
    shape = (3, 4, 5)
    decoder = build(name, shape, likelihood).train()
    x, z = random_images(4, shape, likelihood.levels), torch.randn(4, CODE_DIM).double()
    other_x, other_z = 1 - x, torch.randn(4, CODE_DIM).double()
    other_x[2], other_z[2] = x[2], z[2]
    assert torch.equal(decoder(x, z)[2], decoder(other_x, other_z)[2])


@every_decoder
def test_without_weights_on_pixels_nothing_depends_on_the_image(name: str) -> None:
    """The pixels enter through three weights only: another way in would be a leak."""
    shape = (3, 4, 5)
    decoder = build(name, shape)
    assert isinstance(decoder, GatedPixelCNN)
    z = torch.randn(1, CODE_DIM).double()
    x, other = random_images(1, shape), torch.rand(1, *shape).double()
    assert not torch.equal(decoder(x, z), decoder(other, z))
    for weight in (decoder.first_vertical.weight, decoder.first_horizontal.weight, decoder.head.colour_weight):
        torch.nn.init.zeros_(weight)
    assert torch.equal(decoder(x, z), decoder(other, z))


class TestCode:
    @staticmethod
    def interior(name: str) -> tuple[Tensor, Tensor]:
        """Parameters ``[code, pixel]`` of a constant image, at the pixels whose receptive field lies inside of it."""
        shape = (1, 9, 13)
        decoder = build(name, shape)
        rows, columns = zip(*decoder.receptive_field(), strict=True)
        params = decoder(torch.full((2, *shape), 0.5).double(), torch.randn(2, CODE_DIM).double())
        inside = params[:, 0, -min(rows) :, -min(columns) : shape[2] - max(columns)].flatten(1)
        assert inside.shape[1] > 1
        return inside[0], inside[1]

    @pytest.mark.parametrize("name", ["location_invariant", "one_layer", "kernel5", "first_kernel5", "dilated"])
    def test_location_invariant_is_the_same_everywhere(self, name: str) -> None:
        one, other = self.interior(name)
        assert_close(one, one[:1].expand_as(one), rtol=0, atol=1e-12)
        assert_close(other, other[:1].expand_as(other), rtol=0, atol=1e-12)
        assert (one - other).abs().max() > 1e-4

    @pytest.mark.parametrize("name", ["location_dependent", "first_kernel7"])
    def test_location_dependent_differs_from_pixel_to_pixel(self, name: str) -> None:
        one, other = self.interior(name)
        response = one - other
        assert (response[1:] - response[:-1]).abs().min() > 1e-6

    @pytest.mark.parametrize("name", DECODERS)
    def test_every_entry_of_the_code_reaches_every_pixel(self, name: str) -> None:
        shape = (3, 3, 5)
        reached = torch.zeros((), dtype=torch.bool)
        for seed in range(3):  # a unit of the head that is off hides what it would see
            decoder, x = build(name, shape, seed=seed), random_images(1, shape)
            jacobian = torch.func.jacrev(lambda z, d=decoder, x=x: d(x, z[None])[0])(torch.randn(CODE_DIM).double())
            reached = reached | (jacobian != 0)
        assert reached.all()


# ------------------------------------------------------------------------------------------------------------ sampling


class Recorded:
    """The parameters that a sampler gave to the likelihood, as ``[B, P, H, W]``."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.calls = decoder, list[Tensor]()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        likelihood = self.decoder.likelihood
        draw = likelihood.sample

        def sample(params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
            self.calls.append(params)
            return draw(params, uniforms, temperature)

        likelihood.sample = sample  # type: ignore[method-assign]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each thread would draw its own images, and the calls come in any order
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            del likelihood.sample

    def params(self) -> Tensor:
        _, height, width = self.decoder.image_shape
        return torch.stack(self.calls, -1).unflatten(-1, (height, width, -1)).permute(0, 4, 1, 2, 3).flatten(1, 2)


def sampler_inputs(decoder: Decoder, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    decoder.to(dtype)
    z = torch.randn(n, CODE_DIM).to(dtype)
    return z, draw_uniforms(decoder, n, torch.Generator().manual_seed(7), z)


@every_decoder
@every_likelihood
@pytest.mark.parametrize(
    ("shape", "temperature"), [((1, 5, 7), 1.0), ((3, 4, 3), 0.6)], ids=["grey", "colour_temperature"]
)
@torch.no_grad()
def test_both_samplers_draw_the_same_images(
    name: str, likelihood: Likelihood, shape: tuple[int, int, int], temperature: float
) -> None:
    # Twice the weights drives the means of the logistics out of the range of the pixels: every image would be white.
    spread = 1 if isinstance(likelihood, DiscretizedLogisticMixture) else 2
    decoder = build(name, shape, likelihood, spread=spread)
    z, uniforms = sampler_inputs(decoder, 8)
    images = decoder.sample(z, uniforms, temperature)
    assert torch.equal(images, sample_by_full_passes(decoder, z, uniforms, temperature))
    assert images.shape == (8, *shape)
    assert len(images.unique(dim=0)) > 1
    likelihood.check(images)


@pytest.mark.parametrize("name", ["location_dependent", "dilated_kernel5", "no_layers"])
@every_likelihood
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (1, 1, 7), (3, 8, 2), (2, 3, 9)])
@torch.no_grad()
def test_both_samplers_draw_the_same_images_of_odd_sizes(
    name: str, likelihood: Likelihood, shape: tuple[int, int, int]
) -> None:
    decoder = build(name, shape, likelihood, spread=2)
    z, uniforms = sampler_inputs(decoder, 3)
    assert torch.equal(decoder.sample(z, uniforms), sample_by_full_passes(decoder, z, uniforms))


@every_decoder
@every_likelihood
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 3)], ids=["grey", "colour"])
@torch.no_grad()
def test_sampler_uses_the_parameters_of_the_image_it_draws(
    name: str, likelihood: Likelihood, shape: tuple[int, int, int]
) -> None:
    """The network's parameters along a drawn image are those it was drawn from; in float32 the images may differ."""
    decoder = build(name, shape, likelihood, spread=2)
    z, uniforms = sampler_inputs(decoder, 4, torch.float32)
    recorded = Recorded(decoder)
    with recorded():
        images = decoder.sample(z, uniforms)
    assert_close(recorded.params(), decoder(images, z), rtol=0, atol=1e-4)


@every_decoder
@torch.no_grad()
def test_float32_samplers_differ_at_a_boundary_of_the_cdf_only(name: str) -> None:
    shape, levels = (1, 6, 5), 3
    decoder = build(name, shape, CategoricalLevels(levels), spread=2)
    z, uniforms = sampler_inputs(decoder, 16, torch.float32)
    params = decoder(plain := sample_by_full_passes(decoder, z, uniforms), z)
    cdf = params.softmax(1).cumsum(1)[:, :-1]
    margin = (cdf - uniforms.permute(0, 3, 1, 2)).abs().amin(1)
    for image, reference, distance in zip(decoder.sample(z, uniforms), plain, margin, strict=True):
        different = (image != reference).flatten().nonzero()
        assert len(different) == 0 or distance.flatten()[different[0]] < 1e-5


@torch.no_grad()
def test_samples_follow_the_model() -> None:
    """Frequencies of all 16 images of 2x2 pixels against ``exp(log p(x|z))``."""
    decoder = build("location_dependent", (1, 2, 2), spread=2)
    n = 20000
    z = torch.randn(1, CODE_DIM).double().expand(n, -1)
    images = decoder.sample(z, draw_uniforms(decoder, n, torch.Generator().manual_seed(1), z))
    distinct, counts = images.unique(dim=0, return_counts=True)
    p = decoder.likelihood.log_prob(decoder(distinct, z[: len(distinct)]), distinct).exp()
    assert ((counts / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()
    assert p.sum() > 0.99


class TestCompletion:
    @every_decoder
    @every_likelihood
    @torch.no_grad()
    def test_both_samplers_complete_alike(self, name: str, likelihood: Likelihood) -> None:
        shape = (2, 4, 5)
        decoder = build(name, shape, likelihood, spread=2)
        z, uniforms = sampler_inputs(decoder, 3)
        mask = torch.rand(shape[1:]) < 0.5
        mask[1] = True  # a row that is given as a whole is passed over
        known = Known(random_images(3, shape, likelihood.levels), mask)
        images = decoder.sample(z, uniforms, 1.0, known)
        assert torch.equal(images, sample_by_full_passes(decoder, z, uniforms, 1.0, known))
        assert torch.equal(images[:, :, mask], known.image[:, :, mask])
        assert not torch.equal(images, decoder.sample(z, uniforms))

    @torch.no_grad()
    def test_follows_the_conditional_distribution(self) -> None:
        """Frequencies of the lower row of 2x2 pixels, given the upper one."""
        decoder = build("location_invariant", (1, 2, 2), spread=2)
        n = 20000
        z = torch.randn(1, CODE_DIM).double().expand(n, -1)
        upper = torch.tensor([[True, True], [False, False]])
        known = Known(torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double().expand(n, 1, 2, 2), upper)
        images = decoder.sample(z, draw_uniforms(decoder, n, torch.Generator().manual_seed(1), z), 1.0, known)
        lower = torch.cartesian_prod(*[torch.arange(2.0)] * 2).double()
        whole = torch.cat([torch.tensor([[1.0, 0.0]]).double().expand(4, -1), lower], 1).view(4, 1, 2, 2)
        p = decoder.likelihood.log_prob(decoder(whole, z[:4]), whole).softmax(0)
        frequency = torch.stack([(images == image).flatten(1).all(1).double().mean() for image in whole])
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()


@every_decoder
@every_likelihood
@torch.no_grad()
def test_a_recorded_row_draws_all_rows(name: str, likelihood: Likelihood) -> None:
    """As a CUDA graph would: the operations of one row are repeated on the same memory."""
    shape = (2, 5, 4)
    decoder = build(name, shape, likelihood, spread=2)
    assert isinstance(decoder, GatedPixelCNN)
    z, uniforms = sampler_inputs(decoder, 3)
    images = random_images(3, shape, likelihood.levels)
    first_rows = torch.zeros(shape[1:], dtype=torch.bool)
    first_rows[:2] = True
    recorder = Replays()
    for known in (None, Known(images, first_rows), Known(images, torch.rand(shape[1:]) < 0.5)):
        expected = decoder.sample(z, uniforms, 0.8, known)
        sampler = incremental._Sampler(decoder, decoder.code_map(z), uniforms, 0.8, known)
        assert torch.equal(sampler.draw(recorder), expected)
    assert recorder.recorded == 3


@torch.no_grad()
def test_a_row_that_cannot_be_recorded_is_called() -> None:
    decoder = build("one_layer", (1, 5, 4))
    assert isinstance(decoder, GatedPixelCNN)
    z, uniforms = sampler_inputs(decoder, 3)
    for recorder in (Replays(refusal="it waits"), Replays(error=RuntimeError("out of memory\nmuch of it"))):
        sampler = incremental._Sampler(decoder, decoder.code_map(z), uniforms, 1.0, None)
        with pytest.warns(UserWarning, match="without a CUDA graph, which is slower: (it waits|out of memory)$"):
            assert torch.equal(sampler.draw(recorder), decoder.sample(z, uniforms))
        assert recorder.recorded == 0


class TestConvDecoder:
    """Independent pixels: nothing of the image is read, and one pass draws what the plain sampler draws."""

    @every_likelihood
    @pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 4)])
    @torch.no_grad()
    def test_samples(self, likelihood: Likelihood, shape: tuple[int, int, int]) -> None:
        torch.manual_seed(0)
        decoder = ConvDecoder([6, 4]).build(shape, CODE_DIM, likelihood).double()
        z, uniforms = sampler_inputs(decoder, 3)
        known = Known(random_images(3, shape, likelihood.levels), torch.rand(shape[1:]) < 0.5)
        for given in (None, known):
            images = decoder.sample(z, uniforms, 0.7, given)
            assert torch.equal(images, sample_by_full_passes(decoder, z, uniforms, 0.7, given))
        assert decoder.receptive_field() == frozenset()
        x = random_images(3, shape)
        assert torch.equal(decoder(x, z), decoder(1 - x, z))
        assert not torch.equal(decoder(x, z), decoder(x, z + 1))

    def test_needs_a_code(self) -> None:
        with pytest.raises(ConfigurationError, match="ConvDecoder without a code"):
            ConvDecoder().build((1, 4, 4), 0, Bernoulli())


def test_no_code_leaves_an_unconditional_decoder() -> None:
    torch.manual_seed(0)
    decoder = gated().build((1, 4, 5), 0, Bernoulli()).double()
    z, x = torch.zeros(2, 0).double(), random_images(2, (1, 4, 5))
    assert decoder(x, z).shape == x.shape
    uniforms = draw_uniforms(decoder, 2, torch.Generator().manual_seed(7), z)
    with torch.no_grad():
        assert torch.equal(decoder.sample(z, uniforms), sample_by_full_passes(decoder, z, uniforms))


class TestUniforms:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_never_reach_one(self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        """A draw of one would give a pixel the value that has probability zero."""
        decoder = build("no_layers", (1, 2, 2))
        largest = 1 - 2**-53
        monkeypatch.setattr(torch, "rand", lambda *shape, dtype, generator: torch.full(shape, largest, dtype=dtype))
        uniforms = draw_uniforms(decoder, 3, torch.Generator(), torch.zeros(0, dtype=dtype))
        assert (uniforms < 1).all()

    def test_are_a_function_of_the_generator(self) -> None:
        decoder = build("no_layers", (3, 2, 4))
        like = torch.zeros(0, dtype=torch.float64)
        state = torch.get_rng_state()
        one, same, other = (draw_uniforms(decoder, 5, torch.Generator().manual_seed(s), like) for s in (1, 1, 2))
        assert one.shape == (5, 2, 4, 3)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, r"kernel=4 .* odd numbers >= 3"),
        ({"kernel": 1}, r"kernel=1 .* odd numbers >= 3"),
        ({"first_kernel": 2}, r"first_kernel=2 .* odd numbers >= 3"),
        ({"channels": 0}, r"channels=0 .* >= 1"),
        ({"layers": -1}, r"layers=-1 .* >= 0"),
        ({"map_channels": 0}, r"map_channels=0 .* >= 1"),
        ({"layers": 2, "dilations": [1]}, r"dilations=\[1\] .* 2 numbers >= 1"),
        ({"layers": 1, "dilations": [0]}, r"dilations=\[0\] .* 1 numbers >= 1"),
        ({"condition": "never"}, r"condition='never' .* 'every_layer' and 'input_layer'"),
        ({"bias": "somewhere"}, r"bias='somewhere' .* 'location_invariant' and 'location_dependent'"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GatedPixelCNN(**options)


# ------------------------------------------------------------------------------------------------- training on a CPU


def plainly(function: Callable[[], Any]) -> Any:
    """``function()`` with the layers' plain operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_layer, "usable", lambda v: False)
        return function()


class TestCpuLayer:
    """The gated layers that are written out for CPUs, against the plain ones."""

    @pytest.mark.parametrize("shape", [(1, 9, 7), (3, 5, 7), (1, 1, 1), (2, 1, 5), (1, 5, 1)])
    @every_decoder
    def test_computes_what_the_plain_layer_computes(self, name: str, shape: tuple[int, int, int]) -> None:
        decoder = build(name, shape, spread=2)
        z, weights = torch.randn(3, CODE_DIM).double(), torch.randn(3, *shape).double()
        x = random_images(3, shape).requires_grad_()
        z.requires_grad_()

        def results() -> list[Tensor]:
            params = decoder(x, z)
            return [
                params,
                *torch.autograd.grad((params * weights).sum(), [x, z, *decoder.parameters()], allow_unused=True),
            ]

        for written_out, plain in zip(results(), plainly(results), strict=True):
            assert_close(written_out, plain, rtol=1e-10, atol=1e-11)

    @every_decoder
    def test_later_pixels_change_nothing_at_all(self, name: str) -> None:
        shape = (1, 6, 5)
        decoder, z = build(name, shape, spread=2), torch.randn(1, CODE_DIM).double()
        x = random_images(1, shape)
        params = decoder(x, z).flatten(2)
        for pixel in range(30):
            other = x.flatten(2).clone()
            other[..., pixel:] = torch.rand(30 - pixel).double()
            changed = decoder(other.view_as(x), z).flatten(2)
            assert torch.equal(changed[..., : pixel + 1], params[..., : pixel + 1])

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize(("kernel", "dilations"), [(3, [1]), (5, [1, 1]), (3, [2, 1, 2]), (5, [9, 1])])
    @pytest.mark.parametrize("place", [(1, 1), (4, 5)], ids=["invariant", "dependent"])
    def test_gradients(
        self, kernel: int, dilations: list[int], place: tuple[int, int], layout: torch.memory_format
    ) -> None:
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(GatedLayer(2, kernel, dilation, code_channels=3) for dilation in dilations)
        layers.double().to(memory_format=layout)
        v, h = torch.randn(2, 2, 2, 4, 5, dtype=torch.float64)
        inputs = [t.to(memory_format=layout).requires_grad_() for t in (v, h, torch.randn(2, 3, *place).double())]
        assert cpu_layer.usable(v)
        given = (*inputs, *layers.parameters())
        assert torch.autograd.gradcheck(lambda *given: cpu_layer.gated_layers([*layers], *given[:3]), given)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_gradients_lie_in_memory_as_their_weights(self, layout: torch.memory_format) -> None:
        """Else DistributedDataParallel copies them, and says so."""
        layer = GatedLayer(2, 3, 1, code_channels=3).to(memory_format=layout)
        v, h, code = torch.randn(2, 2, 4, 5), torch.randn(2, 2, 4, 5), torch.randn(2, 3, 1, 1)
        cpu_layer.gated_layers([layer], v, h, code).sum().backward()
        for weight in (layer.vertical.weight, layer.horizontal.weight, layer.link.weight, layer.out.weight):
            assert weight.grad is not None
            assert weight.grad.stride() == weight.stride()

    @pytest.mark.parametrize(("images", "parts"), [(1, [1] * 7), (3, [3, 2, 2]), (6, [4, 3])])
    @pytest.mark.parametrize("name", ["location_invariant", "location_dependent"])
    def test_a_few_images_at_a_time(
        self, name: str, images: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shape = (1, 5, 4)
        decoder = build(name, shape)
        assert isinstance(decoder, GatedPixelCNN)
        x, z = random_images(7, shape), torch.randn(7, CODE_DIM).double()

        def results() -> list[Tensor]:
            params = decoder(x, z)
            return [params, *torch.autograd.grad(params.square().sum(), [*decoder.parameters()], allow_unused=True)]

        assert cpu_layer.images_at_once(decoder.channels, *shape[1:]) >= 7
        together = results()
        calls: list[int] = []
        one_call = cpu_layer.gated_layers
        monkeypatch.setattr(cpu_layer, "images_at_once", lambda *sizes: images)
        monkeypatch.setattr(
            cpu_layer, "gated_layers", lambda layers, v, h, code: calls.append(len(v)) or one_call(layers, v, h, code)
        )
        for apart, at_once in zip(results(), together, strict=True):
            assert_close(apart, at_once, rtol=1e-12, atol=1e-13)
        assert calls == parts

    def test_leaves_alone_what_it_is_given(self) -> None:
        torch.manual_seed(0)
        layers = [GatedLayer(2, 3, 1, code_channels=3) for _ in range(2)]
        given = [torch.randn(2, 2, 4, 5).requires_grad_() for _ in range(2)] + [torch.randn(2, 3, 4, 5)]
        gradient = torch.randn(2, 2, 4, 5)
        parameters = [p for layer in layers for p in layer.parameters()]
        kept = [t.clone() for t in (*given, gradient, *parameters)]
        cpu_layer.gated_layers(layers, *given).backward(gradient)
        assert all(map(torch.equal, (*given, gradient, *parameters), kept))

    def test_torch_compile_leaves_it_alone(self) -> None:
        decoder = build("location_invariant", (1, 5, 4))
        x, z = random_images(3, (1, 5, 4)), torch.randn(3, CODE_DIM).double()
        assert torch.equal(torch.compile(decoder, backend="eager")(x, z), decoder(x, z))

    def test_where_it_is_not_used(self) -> None:
        x = torch.zeros(1)
        assert cpu_layer.usable(x)
        assert cpu_layer.usable(x.double())
        assert not cpu_layer.usable(x.bfloat16())
        assert not cpu_layer.usable(torch.zeros(1, device="meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not cpu_layer.usable(x)
        torch.func.vmap(lambda x: pytest.fail("used") if cpu_layer.usable(x) else x)(x)

    def test_a_second_derivative_is_refused(self) -> None:
        layer = GatedLayer(2, 3, 1, code_channels=3)
        v = torch.randn(1, 2, 4, 5, requires_grad=True)
        h = cpu_layer.gated_layers([layer], v, v, torch.randn(1, 3, 1, 1))
        (gradient,) = torch.autograd.grad(h.square().sum(), v, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


# --------------------------------------------------------------------------------------------------- compiled sampling


class TestCompiledSampler:
    """The loop that numba compiles; skipped where numba is not installed."""

    @every_decoder
    @pytest.mark.parametrize("likelihood", [Bernoulli(), CategoricalLevels(2), CategoricalLevels(3)])
    @pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 3)], ids=["grey", "colour"])
    @torch.no_grad()
    def test_draws_the_images_of_the_incremental_one(
        self, name: str, likelihood: Likelihood, shape: tuple[int, int, int]
    ) -> None:
        pytest.importorskip("numba")
        decoder = build(name, shape, likelihood)
        assert isinstance(decoder, GatedPixelCNN)
        z = torch.randn(11, CODE_DIM).double()  # more than a tile, and not a multiple of four
        uniforms = draw_uniforms(decoder, 11, torch.Generator().manual_seed(1), z)
        mask = torch.rand(shape[1:], generator=torch.Generator().manual_seed(2)) < 0.3
        for known in (None, Known(random_images(11, shape, likelihood.levels), mask)):
            decoder.sampler = "incremental"
            expected = decoder.sample(z, uniforms, 0.8, known)
            decoder.sampler = "compiled"
            assert torch.equal(decoder.sample(z, uniforms, 0.8, known), expected)
            assert expected.unique().numel() > 1

    @torch.no_grad()
    def test_in_float32_it_differs_at_a_boundary_of_the_cdf_only(self) -> None:
        pytest.importorskip("numba")
        decoder = build("location_dependent", (1, 9, 9), spread=3).float()
        assert isinstance(decoder, GatedPixelCNN)
        z = torch.randn(64, CODE_DIM)
        uniforms = draw_uniforms(decoder, 64, torch.Generator().manual_seed(1), z)
        decoder.sampler = "compiled"
        x = decoder.sample(z, uniforms)
        p = decoder.double()(x.double(), z.double()).sigmoid()
        distance = (uniforms.permute(0, 3, 1, 2) - p).abs()
        wrong = (uniforms.permute(0, 3, 1, 2) < p) != (x == 1)
        assert (distance[wrong] < 1e-5).all()
        assert wrong.double().mean() < 1e-3

    def test_says_what_it_cannot_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        decoder = build("one_layer", (1, 3, 3), Palette())
        assert isinstance(decoder, GatedPixelCNN)
        decoder.sampler = "compiled"
        z, uniforms = torch.zeros(1, CODE_DIM).double(), torch.zeros(1, 3, 3, 1).double()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        with pytest.raises(ConfigurationError, match="Bernoulli and CategoricalLevels, not from Palette"):
            decoder.sample(z, uniforms)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigurationError, match="numba is not installed"):
            decoder.sample(z, uniforms)


def test_images_spread_over_threads_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = (
        GatedPixelCNN(channels=4, layers=2, sampler="incremental").build((1, 5, 4), CODE_DIM, Bernoulli()).double()
    )
    z, uniforms = torch.randn(7, CODE_DIM).double(), torch.rand(7, 5, 4, 1).double()
    one, before = decoder.sample(z, uniforms), torch.get_num_threads()
    parts: list[int] = []
    monkeypatch.setattr("pixelgan_lightning.decoders.incremental.NUMBERS_PER_THREAD", 8)  # two images
    start = incremental._Sampler.__init__

    def counted(self: Any, decoder: GatedPixelCNN, code: Tensor, *others: Any) -> None:
        parts.append(len(code))
        start(self, decoder, code, *others)

    monkeypatch.setattr(incremental._Sampler, "__init__", counted)
    try:
        torch.set_num_threads(5)
        assert torch.equal(decoder.sample(z, uniforms), one)
    finally:
        torch.set_num_threads(before)
    assert sorted(parts) == [2, 2, 3]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_take_every_image_once_and_leave_their_number_alone(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert len(over_threads(lambda part: torch.arange(3)[part], 3)) == min(3, threads)
        parts = over_threads(lambda part: torch.arange(7)[part] + 100 * (torch.get_num_threads() > 1), 7)
        assert torch.cat(parts).tolist() == list(range(7))
        assert len(over_threads(lambda part: torch.arange(7)[part], 7, at_least=3)) == min(2, threads)
        (alone,) = over_threads(lambda part: torch.arange(7)[part] + 100 * (torch.get_num_threads() > 1), 7, at_least=8)
        assert alone.tolist() == list(range(7))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
