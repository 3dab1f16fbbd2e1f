"""Likelihoods in chunks and by importance sampling, completion, and models without a code or with label-aware codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_model import (
    CATEGORICAL,
    CLASSES,
    GAUSSIAN,
    SHAPE,
    around_phases,
    batches,
    close,
    fit,
    images,
    phases,
    state,
    tiny,
)

from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.model import PixelGAN
from pixelgan_lightning.phases import ReconstructionPhase, TrainStep
from pixelgan_lightning.posteriors import DeterministicPosterior, GaussianPosterior
from pixelgan_lightning.priors import Gaussian, GaussianMixture, NoCode, SwissRoll
from pixelgan_lightning.random import RowDraws, keyed_generator

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

MIXTURE: dict[str, Any] = {
    "prior": GaussianMixture(num_components=CLASSES),
    "posterior": DeterministicPosterior(),
    "discriminator": MLPDiscriminator([8], label_aware=True),
    "phases": phases("reconstruction", "discriminator", "generator"),
}


class TestChunks:
    @pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000])
    def test_do_not_change_the_likelihood(self, chunk_size: int) -> None:
        model, x = tiny(), images(5, "chunks")
        close(model.log_joint(x, chunk_size), model.log_joint(x))
        close(model.log_prob(x, chunk_size), model.log_prob(x))

    def test_bound_what_goes_through_the_decoder(self) -> None:
        model, sizes = tiny(), []
        model.decoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
        model.log_prob(images(5, "chunks"), chunk_size=4)
        assert max(sizes) == 4
        assert sum(sizes) == 5 * CLASSES

    def test_of_no_size_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"chunk_size=0 .* >= 1"):
            tiny().log_prob(images(1, 0), chunk_size=0)


GREY = torch.full((1, *SHAPE), 0.3).double()
UNUSABLE: dict[str, tuple[Callable[[PixelGAN], object], str]] = {
    "levels": (lambda model: model.log_prob(GREY), "image value 0.3 .* {0, 1}"),
    "levels_bayes": (lambda model: model.bayes_posterior(GREY), "image value 0.3 .* {0, 1}"),
    "shape": (lambda model: model.log_prob(images(2, 0)[..., 1:]), r"shape .* image_shape="),
    "shape_encode": (lambda model: model.encode(images(2, 0)[..., 1:]), r"shape .* image_shape="),
    "shape_features": (lambda model: model.features(images(2, 0)[..., 1:]), r"shape .* image_shape="),
    "shape_logits": (lambda model: model.category_logits(images(2, 0)[..., 1:]), r"shape .* image_shape="),
    "no_images": (lambda model: model.encode(images(2, 0)[:0]), "without images .* one or more"),
    "no_samples": (lambda model: model.sample(0), "codes=0 .* >= 1"),
    "no_codes": (lambda model: model.sample(torch.zeros(0, CLASSES)), r"\[N, .*\], N >= 1"),
    "views": (lambda model: model.category_logits(images(2, 0), views=-1), "views=-1 .* >= 0"),
    "chunk_size": (lambda model: model.log_prob(images(1, 0), 2.5), "chunk_size=2.5 .* integers >= 1"),  # type: ignore[arg-type]
    "rows": (lambda model: model.complete(images(1, 0), 1.5), "rows=1.5 .* allowed are 0 to"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_images_and_numbers(name: str) -> None:
    call, message = UNUSABLE[name]
    with pytest.raises(ConfigurationError, match=message):
        call(tiny())


def test_importance_sampling_takes_grey_levels_only() -> None:
    with pytest.raises(ConfigurationError, match=r"image value 0.3 .* {0, 1}"):
        tiny(**GAUSSIAN).importance_log_prob(GREY)


class TestImportanceSampling:
    def test_converges_to_the_integral(self) -> None:
        """Against quadrature over a one-dimensional code."""
        model = tiny(**{**GAUSSIAN, "prior": Gaussian(1)})
        x = images(3, "importance")
        grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
        log_joint = torch.stack(
            [model.prior.log_prob(z[None, None])[0] + model.eval().reconstruct(x, z.expand(3, 1)) for z in grid]
        ).detach()
        exact = (log_joint + math.log(16 / 800)).logsumexp(0)
        mean, log_scale = model.posterior.moments(model.encoder(x))  # type: ignore[operator]
        widen = (1.5 / log_scale.exp()).max().item()  # a proposal that covers the prior has light tails
        estimate = model.importance_log_prob(x, num_samples=2000, widen=widen)
        assert ((estimate - exact).abs() < 0.1).all()
        few = torch.stack([model.importance_log_prob(x, 1, seed, widen) for seed in range(100)]).mean(0)
        assert (few < exact + 0.02).all()  # a lower bound on average
        assert mean.shape == (3, 1)

    def test_is_a_function_of_the_seed(self) -> None:
        model, x = tiny(**GAUSSIAN), images(3, "importance")
        assert torch.equal(model.importance_log_prob(x, 4, 1), model.importance_log_prob(x, 4, 1))
        assert not torch.equal(model.importance_log_prob(x, 4, 1), model.importance_log_prob(x, 4, 2))

    def test_an_image_has_its_own_proposal(self) -> None:
        """The images beside it change the draws, not what is estimated."""
        model, x = tiny(**GAUSSIAN), images(3, "importance")
        whole = model.importance_log_prob(x, 800, widen=4)
        alone = torch.cat([model.importance_log_prob(one[None], 800, widen=4) for one in x])
        close(whole, alone, atol=0.2)

    @pytest.mark.parametrize(
        ("arguments", "call", "message"),
        [
            (CATEGORICAL, {}, "posterior=CategoricalPosterior gives no importance weights"),
            ({**GAUSSIAN, "prior": SwissRoll(noise=0.0)}, {}, "prior=SwissRoll has no density"),
            (GAUSSIAN, {"num_samples": 0}, "num_samples=0"),
            (GAUSSIAN, {"widen": 0.0}, r"widen=0\.0"),
        ],
    )
    def test_refuses_what_it_cannot_estimate(
        self, arguments: dict[str, Any], call: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            tiny(**arguments).importance_log_prob(images(2, 0), **call)


class TestComplete:
    def test_keeps_the_given_rows_and_draws_the_rest(self) -> None:
        model, x = tiny(), images(6, "complete")
        drawn = model.complete(x, rows=2, seed=1)
        assert torch.equal(drawn[:, :, :2], x[:, :, :2])
        assert not torch.equal(drawn[:, :, 2:], x[:, :, 2:])
        assert torch.equal(drawn, model.complete(x, rows=2, seed=1))

    def test_all_rows_and_none(self) -> None:
        model, x = tiny(), images(4, "complete")
        assert torch.equal(model.complete(x, rows=4), x)
        assert torch.equal(model.complete(x, rows=0, seed=3), model.sample(model.encode(x), seed=3))

    def test_code_of_other_images(self) -> None:
        model, x = tiny(), images(4, "complete")
        codes = F.one_hot(torch.arange(4) % CLASSES, CLASSES).double()
        other = images(4, "other")
        lower = torch.cat([x[:, :, :2], other[:, :, 2:]], 2)
        assert torch.equal(model.complete(x, 2, codes), model.complete(lower, 2, codes))  # nothing else is seen

    @pytest.mark.parametrize("rows", [-1, 5])
    def test_rows_out_of_range(self, rows: int) -> None:
        with pytest.raises(ConfigurationError, match=f"rows={rows} .* 0 to 4"):
            tiny().complete(images(1, 0), rows)

    def test_codes_of_another_number_of_images(self) -> None:
        with pytest.raises(ConfigurationError, match=r"codes of 3 images .* allowed are 2"):
            tiny().complete(images(2, 0), 1, torch.zeros(3, CLASSES))


class TestNoCode:
    def test_is_a_pixelcnn(self) -> None:
        """Only the reconstruction phase runs, it trains the decoder, and ``log p(x)`` is the decoder's."""
        model, seen = tiny(prior=NoCode()), []
        around_phases(model, lambda phase, run: (run(), seen.append(phase))[0])
        before = state(model)
        fit(model, batches(2, labelled=False))
        assert seen == 2 * ["reconstruction"]
        changed = {name.split(".")[0] for name, value in state(model).items() if not torch.equal(before[name], value)}
        assert changed == {"decoder"}
        x = images(5, "no code")
        close(model.log_prob(x), model.eval().reconstruct(x, torch.zeros(5, 0).double()).detach())
        assert model.encode(x).shape == (5, 0)
        assert model.sample(3).shape == (3, *model.image_shape)


class TestReconstructionImages:
    def test_only_some_images_reach_the_decoder(self) -> None:
        model, sizes = tiny(phases=phases(reconstruction={"images": 2})), []
        model.decoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
        fit(model, batches(2))
        assert sizes == [2, 2]

    def test_phase_is_that_of_a_smaller_batch(self) -> None:
        ends = []
        for data, number in ((batches(1), 2), ([self.first_and_fourth(batch) for batch in batches(1)], None)):
            model, end = tiny(phases=phases(reconstruction={"images": number})), {}
            around_phases(
                model,
                lambda phase, run, model=model, end=end: (  # type: ignore[misc]
                    run(),
                    end.update(state(model)) if phase == "reconstruction" else None,
                )[0],
            )
            fit(model, data)
            ends.append(end)
        for name in ends[0]:
            close(ends[0][name], ends[1][name])

    @staticmethod
    def first_and_fourth(batch: dict[str, Any]) -> dict[str, Any]:
        """Of six images, two that are spread evenly."""
        return {**batch, "unlabelled": {name: value[[0, 3]] for name, value in batch["unlabelled"].items()}}

    @pytest.mark.parametrize("processes", [1, 2, 4])
    def test_are_the_same_of_the_global_batch_whoever_has_them(self, processes: int) -> None:
        phase, x = ReconstructionPhase(images=8), torch.arange(20)
        seen = [
            phase.selected(part, TrainStep({}, 0, RowDraws(0, rank=rank, world_size=processes)))
            for rank, part in enumerate(x.chunk(processes))
        ]
        assert torch.cat(seen).tolist() == [0, 2, 5, 7, 10, 12, 15, 17]

    def test_that_processes_cannot_share_are_refused(self) -> None:
        trainer: Any = SimpleNamespace(world_size=2)
        with pytest.raises(ConfigurationError, match="images=5 of ReconstructionPhase on 2 processes is not usable"):
            ReconstructionPhase(images=5).check(tiny(), trainer)


class TestLabelAware:
    def test_discriminator_sees_the_label_beside_the_code(self) -> None:
        model, seen = tiny(**MIXTURE), []
        model.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
        batch = batches(1)
        fit(model, batch)
        real, fake, generated = seen
        labels = batch[0]["labelled"]["label"]
        for inputs in (real, fake, generated):
            assert inputs.shape == (12, 2 + CLASSES + 1)  # unlabelled images, then labelled ones
            assert torch.equal(inputs[:6, 2:].argmax(1), torch.full((6,), CLASSES))  # "unknown"
            assert torch.equal(inputs[:, 2:].sum(1), torch.ones(12).double())
        for inputs in (fake, generated):
            assert torch.equal(inputs[6:, 2:].argmax(1), labels)

    def test_real_codes_come_with_the_component_they_were_drawn_from(self) -> None:
        model, seen = tiny(**MIXTURE), []
        model.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
        fit(model, batches(20, size=30))
        real = torch.cat([inputs[30:] for inputs in seen[::3]])
        prior = model.prior
        for component in range(CLASSES):
            codes = real[real[:, 2:].argmax(1) == component, :2]
            expected = torch.cat(
                [
                    drawn[0][drawn[1] == component]
                    for drawn in [prior.sample_with_components(3000, torch.Generator().manual_seed(1))]
                ]
            )
            assert len(codes) > 100
            assert (codes.mean(0) - expected.mean(0)).norm() < 0.3
            others = (real[:, 2:].argmax(1) != component).nonzero()[:, 0]
            assert (real[others, :2].mean(0) - expected.mean(0)).norm() > 0.3

    @pytest.mark.parametrize("shift", [1, 2])
    def test_each_class_comes_to_own_its_component(self, shift: int) -> None:
        """Whichever component a label names, the codes of its images end there."""
        adam = {"lr": 2e-2, "betas": [0.5, 0.999]}
        three = ("reconstruction", "discriminator", "generator")
        few = {"encoder_lr": 1e-4, "images": 3}
        wanted = phases(*three, reconstruction=few, discriminator=adam, generator=adam)
        judge = MLPDiscriminator([32], label_aware=True)
        model = tiny(**{**MIXTURE, "discriminator": judge, "phases": wanted})
        patterns = images(CLASSES, "patterns")
        data = []
        for step in range(100):
            label = torch.randint(CLASSES, (30,), generator=keyed_generator("classes", step))
            labelled = {"image": patterns[label], "label": (label + shift) % CLASSES, "index": label}
            data.append({"unlabelled": {"image": patterns[label.flip(0)], "index": label}, "labelled": labelled})
        fit(model, data)
        angle = torch.atan2(*model.encode(patterns).flip(1).T) * CLASSES / (2 * math.pi)
        assert (angle.round() % CLASSES).tolist() == [(c + shift) % CLASSES for c in range(CLASSES)]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_classes": None}, "label_aware=True with num_classes=None"),
            ({"prior": GaussianMixture(num_components=CLASSES + 1)}, f"num_components={CLASSES}, one for"),
            ({"prior": Gaussian(2), "posterior": GaussianPosterior()}, f"num_components={CLASSES}, one for"),
        ],
    )
    def test_refuses_what_does_not_fit(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            tiny(**{**MIXTURE, **arguments})
