"""What every decoder promises, whatever the order in which it draws. A new one joins by being listed here."""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from itertools import product
from math import prod
from typing import NamedTuple

import pytest
import torch
from test_decoders import CODE_DIM, Palette, random_images
from torch import Tensor, nn
from torch.testing import assert_close

from pixelgan_lightning.decoders import (
    ConvDecoder,
    Decoder,
    GatedPixelCNN,
    Known,
    draw_uniforms,
)
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels, DiscretizedLogisticMixture, Likelihood


def entries_of_gated(decoder: Decoder) -> list[Tensor]:
    """The only weights by which values of the image enter."""
    assert isinstance(decoder, GatedPixelCNN)
    return [decoder.first_vertical.weight, decoder.first_horizontal.weight, decoder.head.colour_weight]


class Member(NamedTuple):
    """A decoder to test.

    Attributes:
        make: constructs it.
        entries: its weights on the image; with these at zero nothing may depend on the image.
    """

    make: Callable[[], Decoder]
    entries: Callable[[Decoder], list[Tensor]] = entries_of_gated


DECODERS: dict[str, Member] = {
    "gated": Member(lambda: GatedPixelCNN(4, layers=1, first_kernel=3)),
    "gated_map": Member(lambda: GatedPixelCNN(4, layers=1, first_kernel=3, bias="location_dependent", map_channels=2)),
    "conv": Member(lambda: ConvDecoder([6, 4]), entries=lambda decoder: []),
}
LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "levels3": CategoricalLevels(3),
    "palette": Palette(),
    "logistics": DiscretizedLogisticMixture(2, levels=3),
}
PAIRS = [(d, k) for d in DECODERS for k in LIKELIHOODS]

every_decoder = pytest.mark.parametrize("name", DECODERS)
every_pair = pytest.mark.parametrize(("name", "likelihood"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


def build(name: str, shape: tuple[int, int, int], likelihood: str = "bernoulli", seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    decoder = DECODERS[name].make().build(shape, CODE_DIM, LIKELIHOODS[likelihood]).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p *= 1.5 if p.dim() > 1 else 1
    return decoder


def groups(decoder: Decoder) -> int:
    """Into how many groups, drawn one after the other, a pixel's channels are cut."""
    return 1 if decoder.likelihood.channels_jointly else decoder.image_shape[0]


def dependence(decoder: Decoder, x: Tensor, z: Tensor) -> Tensor:
    """Which units' values each unit's parameters depend on: bool, both ``[group, row, column]``."""
    g = groups(decoder)
    jacobian = torch.func.jacrev(lambda image: decoder(image[None], z)[0].unflatten(0, (g, -1)))(x)
    seen = (jacobian != 0).any(1)  # over the parameters: [group, row, column, channel', row', column']
    return seen.unflatten(3, (g, -1)).any(4)


def joined_dependence(decoder_of: Callable[[int], Decoder], shape: tuple[int, int, int], training: bool) -> Tensor:
    """Joined over random weights: a unit of a network that is off hides what it would see."""
    seen = torch.zeros((), dtype=torch.bool)
    for seed in range(6):
        decoder = decoder_of(seed).train(training)
        seen = seen | dependence(decoder, torch.rand(shape).double(), torch.randn(1, CODE_DIM).double())
    return seen


@torch.no_grad()
def one_after_the_other(
    decoder: Decoder, order: list[int], z: Tensor, uniforms: Tensor, temperature: float, known: Known | None
) -> Tensor:
    """Samples by one full pass for every unit, in an order in which nothing comes before what it depends on."""
    channels, height, width = decoder.image_shape
    g, likelihood = groups(decoder), decoder.likelihood
    x = z.new_zeros(len(z), channels, height, width)
    mask = torch.zeros(height, width, dtype=torch.bool) if known is None else known.mask
    if known is not None:
        x[:, :, mask] = known.image[:, :, mask]
    for unit in order:
        group, row, column = unit // (height * width), unit // width % height, unit % width
        if mask[row, column]:
            continue
        params = decoder(x, z)[:, :, row, column].unflatten(1, (g, -1))[:, group]
        which = slice(None) if likelihood.channels_jointly else slice(group, group + 1)
        x[:, which, row, column] = likelihood.sample(params, uniforms[:, row, column, which], temperature)
    return x


def drawing_order(seen: Tensor) -> list[int]:
    """Units in an order of drawing; raises ``graphlib.CycleError`` where none exists."""
    size = prod(seen.shape[:3])
    square = seen.reshape(size, size)
    return list(TopologicalSorter({i: square[i].nonzero().flatten().tolist() for i in range(size)}).static_order())


@every_decoder
@pytest.mark.parametrize("shape", [(1, 8, 10), (2, 6, 6)], ids=["grey", "two channels"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_order_exists_and_the_receptive_field_is_the_reported_one(
    name: str, shape: tuple[int, int, int], training: bool
) -> None:
    seen = joined_dependence(lambda seed: build(name, shape, seed=seed), shape, training)
    drawing_order(seen)  # in particular no value sees itself
    _, height, width = shape
    offsets = {
        (r - i, c - j)
        for i, j, r, c in product(range(height), range(width), range(height), range(width))
        if seen[:, i, j, :, r, c].any() and (r, c) != (i, j)
    }
    assert offsets == build(name, shape).receptive_field()  # the images are large enough for all of it


@every_pair
def test_shapes_gradients_and_independence_of_the_batch(name: str, likelihood: str) -> None:
    shape = (2, 4, 6)
    decoder = build(name, shape, likelihood).train()
    x, z = random_images(4, shape, decoder.likelihood.levels), torch.randn(4, CODE_DIM).double().requires_grad_()
    params = decoder(x, z)
    assert params.shape == (4, decoder.likelihood.params_per_pixel(2), 4, 6)
    decoder.likelihood.log_prob(params, x).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in (z, *decoder.parameters()))
    assert (z.grad != 0).all()  # type: ignore[union-attr]
    other_x, other_z = 1 - x, torch.randn(4, CODE_DIM).double()
    other_x[2], other_z[2] = x[2], z[2].detach()
    assert torch.equal(params[2], decoder(other_x, other_z)[2])


@every_decoder
def test_without_weights_on_the_image_nothing_depends_on_it(name: str) -> None:
    shape = (2, 4, 6)
    decoder = build(name, shape)
    z, x, other = torch.randn(1, CODE_DIM).double(), random_images(1, shape), torch.rand(1, *shape).double()
    entries = DECODERS[name].entries(decoder)
    assert torch.equal(decoder(x, z), decoder(other, z)) == (not entries)
    for weight in entries:
        nn.init.zeros_(weight)
    assert torch.equal(decoder(x, z), decoder(other, z))


@every_pair
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(name: str, likelihood: str) -> None:
    shape = (2, 2, 2) if LIKELIHOODS[likelihood].levels == 2 else (1, 2, 2)
    decoder = build(name, shape, likelihood)
    values = torch.arange(float(decoder.likelihood.levels)) / (decoder.likelihood.levels - 1)
    images = torch.cartesian_prod(*[values] * prod(shape)).double().view(-1, *shape)
    z = torch.randn(1, CODE_DIM).double().expand(len(images), -1)
    log_p = decoder.likelihood.log_prob(decoder(images, z), images)
    assert log_p.std() > 0.01  # not the uniform distribution
    assert_close(log_p.exp().sum().item(), 1.0, rtol=0, atol=1e-12)


@every_pair
@pytest.mark.parametrize("rows", [None, 2])
@torch.no_grad()
def test_samples_and_completions_are_those_of_one_pass_for_every_value(
    name: str, likelihood: str, rows: int | None
) -> None:
    shape = (2, 4, 6)
    decoder = build(name, shape, likelihood)
    order = drawing_order(joined_dependence(lambda seed: build(name, shape, likelihood, seed), shape, False))
    z = torch.randn(4, CODE_DIM).double()
    uniforms = draw_uniforms(decoder, 4, torch.Generator().manual_seed(7), z)
    known = None
    if rows is not None:
        mask = torch.zeros(shape[1:], dtype=torch.bool)
        mask[:rows] = True
        known = Known(random_images(4, shape, decoder.likelihood.levels), mask)
    images = decoder.sample(z, uniforms, 0.8, known)
    assert torch.equal(images, one_after_the_other(decoder, order, z, uniforms, 0.8, known))
    assert len(images.unique(dim=0)) > 1
    decoder.likelihood.check(images)
    if known is not None:
        assert torch.equal(images[:, :, :rows], known.image[:, :, :rows])
