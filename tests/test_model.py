"""The model: exact likelihoods, the phases of a training step one by one, checkpoints, and what it refuses."""

from __future__ import annotations

import copy
import importlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from pixelgan_lightning import PixelGAN, __version__
from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, CategoricalLevels
from pixelgan_lightning.numerics.normalization import running_statistics
from pixelgan_lightning.phases import (
    AgreementPhase,
    ClassificationPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    Phase,
    ReconstructionPhase,
)
from pixelgan_lightning.phases.optimization import PhaseOptimizer
from pixelgan_lightning.posteriors import CategoricalPosterior, DeterministicPosterior, GaussianPosterior
from pixelgan_lightning.priors import Categorical, Gaussian, GaussianMixture, ProductPrior
from pixelgan_lightning.random import RowDraws, keyed_generator

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),  # saving after it is meant
]

SHAPE = (1, 4, 4)
CLASSES = 3

CLASSES_OF_PHASES: dict[str, type[Phase]] = {
    "reconstruction": ReconstructionPhase,
    "discriminator": DiscriminatorPhase,
    "generator": GeneratorPhase,
    "agreement": AgreementPhase,
    "classification": ClassificationPhase,
}
PHASES = tuple(CLASSES_OF_PHASES)


def phases(*names: str, **settings: dict[str, Any]) -> dict[str, Phase]:
    """Some phases by name, all by default, with the settings of some of them."""
    return {name: CLASSES_OF_PHASES[name](**settings.get(name, {})) for name in names or PHASES}


CATEGORICAL: dict[str, Any] = {
    "prior": Categorical(CLASSES),
    "augmentation": RandomAffine(),
    "phases": phases(),
    "discriminator": MLPDiscriminator([8], code_noise=0.3),
}
GAUSSIAN: dict[str, Any] = {
    "prior": Gaussian(2),
    "phases": phases("reconstruction", "discriminator", "generator"),
    "posterior": GaussianPosterior(0.3),
    "decoder": GatedPixelCNN(channels=4, layers=1, first_kernel=3, bias="location_dependent", map_channels=2),
    "discriminator": MLPDiscriminator([8]),
}
PLANES: dict[str, Any] = {"prior": ProductPrior([Gaussian(1), Gaussian(2)])}
KINDS = {"categorical": CATEGORICAL, "gaussian": GAUSSIAN}


def tiny(**arguments: Any) -> PixelGAN:
    """A small model with random weights, in float64."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "image_shape": SHAPE,
        "num_classes": CLASSES,
        "encoder": ConvEncoder([4], num_features=6),
        "decoder": GatedPixelCNN(channels=4, layers=1, first_kernel=3),
        "seed": 5,
    }
    if "prior" not in arguments:
        arguments = {**CATEGORICAL, **arguments}
    return PixelGAN(**{**defaults, **arguments}).double()


def images(n: int, key: object) -> Tensor:
    return torch.randint(2, (n, *SHAPE), generator=keyed_generator("images", str(key))).double()


def batches(n: int, size: int = 6, labelled: bool = True) -> list[dict[str, Any]]:
    made = []
    for step in range(n):
        batch: dict[str, Any] = {"unlabelled": {"image": images(size, step), "index": torch.arange(size)}}
        if labelled:
            labels = torch.randint(CLASSES, (size,), generator=keyed_generator("labels", step))
            batch["labelled"] = {"image": images(size, f"labelled {step}"), "label": labels, "index": labels}
        made.append(batch)
    return made


def loader(data: Sequence[dict[str, Any]]) -> DataLoader:
    """The batches as they are."""
    return DataLoader(data, batch_size=None)  # type: ignore[arg-type]


def trainer(**arguments: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**quiet, "accelerator": "cpu", "devices": 1, "max_epochs": 1, **arguments})


def fit(model: PixelGAN, data: Sequence[dict[str, Any]], **arguments: Any) -> pl.Trainer:
    run = trainer(**arguments)
    run.fit(model, loader(data))
    return run


def around_phases(model: PixelGAN, wrap: Callable[[str, Callable[[], None]], None]) -> None:
    """Let ``wrap(phase, run)`` be called instead of every phase; it has to call ``run``."""
    run_phase = model.step.run_phase

    def run(name: str, *args: Any, **kwargs: Any) -> None:
        wrap(name, lambda: run_phase(name, *args, **kwargs))

    model.step.run_phase = run  # type: ignore[method-assign]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def close(one: Any, other: Any, atol: float = 1e-12) -> None:
    assert_close(one, other, rtol=0, atol=atol)


# ----------------------------------------------------------------------------------------------------- the likelihoods


class TestExactLikelihood:
    """On all 2x2 images. The weights are larger than at the start of a training, so that codes and pixels matter."""

    @pytest.fixture(params=["binary", "levels"])
    def model(self, request: pytest.FixtureRequest) -> PixelGAN:
        likelihood = Bernoulli() if request.param == "binary" else CategoricalLevels(3)
        model = tiny(image_shape=(1, 2, 2), likelihood=likelihood)
        with torch.no_grad():
            for p in model.parameters():
                p *= 2
            with running_statistics(model):
                model.recognise(self.every_image(model))
        return model

    @staticmethod
    def every_image(model: PixelGAN) -> Tensor:
        levels = model.likelihood.levels
        values = torch.tensor(list(itertools.product(range(levels), repeat=4)), dtype=torch.float64)
        return values.view(-1, 1, 2, 2) / (levels - 1)

    def test_probabilities_of_all_images_sum_to_one(self, model: PixelGAN) -> None:
        log_p = model.log_prob(self.every_image(model))
        assert log_p.std() > 0.1
        close(log_p.exp().sum().item(), 1.0)

    def test_log_joint_is_prior_times_decoder(self, model: PixelGAN) -> None:
        x = self.every_image(model)
        joint = model.log_joint(x)
        assert joint.shape == (len(x), CLASSES)
        for k in range(CLASSES):
            z = F.one_hot(torch.tensor(k), CLASSES).double().expand(len(x), -1)
            close(joint[:, k], model.eval().reconstruct(x, z).detach() - math.log(CLASSES))
        assert (joint - joint[:, :1]).abs().max() > 0.1

    def test_bayes_posterior(self, model: PixelGAN) -> None:
        x = self.every_image(model)
        p = model.bayes_posterior(x).exp()
        close(p.sum(1), torch.ones(len(x)).double())
        close(p * model.log_prob(x).exp()[:, None], model.log_joint(x).exp())

    def test_bound_and_its_gap(self, model: PixelGAN) -> None:
        """log p(x) = sum_k q(k|x) log p(x|k) - KL(q(y|x)||p(y)) + KL(q(y|x)||p(y|x))."""
        x = self.every_image(model)
        log_q, log_prior = model.category_logits(x).log_softmax(1), -math.log(CLASSES)
        q = log_q.exp()
        reconstruction = (q * (model.log_joint(x) - log_prior)).sum(1)
        to_prior = (q * (log_q - log_prior)).sum(1)
        to_bayes = (q * (log_q - model.bayes_posterior(x))).sum(1)
        assert to_prior.min() > 1e-3
        assert to_bayes.min() > 1e-3
        close(model.log_prob(x), reconstruction - to_prior + to_bayes)

    def test_information_decomposition(self, model: PixelGAN) -> None:
        """mean_x KL(q(y|x)||p(y)) = I_q(y;x) + KL(q(y)||p(y))."""
        log_q, log_prior = model.category_logits(self.every_image(model)).log_softmax(1), -math.log(CLASSES)
        q = log_q.exp()
        aggregate = q.mean(0)
        information = (q * (log_q - aggregate.log())).sum(1).mean()
        marginal = (aggregate * (aggregate.log() - log_prior)).sum()
        assert information > 1e-3
        close((q * (log_q - log_prior)).sum(1).mean(), information + marginal)

    def test_samples_have_the_marginal_probabilities(self, model: PixelGAN) -> None:
        n, x = 20000, self.every_image(model)
        p = model.log_prob(x).exp()
        drawn = model.sample(n, seed=3).flatten(1)
        frequency = torch.stack([(drawn == image.flatten()).all(1).double().mean() for image in x])
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


# ------------------------------------------------------------------------------------------------------------ training


class TestPhases:
    @staticmethod
    def owned(model: PixelGAN, phase: str) -> set[str]:
        """The parameters that a phase may change."""
        parts = {"reconstruction": ("encoder", "posterior", "decoder"), "discriminator": ("discriminator",)}
        names = [name for name, _ in model.named_parameters()]
        return {name for name in names if name.split(".")[0] in parts.get(phase, ("encoder", "posterior"))}

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_changes_its_own_parameters_and_nothing_else(self, kind: str) -> None:
        model = tiny(**KINDS[kind])
        seen = []

        def wrap(phase: str, run: Callable[[], None]) -> None:
            before = state(model)
            run()
            after = state(model)
            changed = {name for name in before if not torch.equal(before[name], after[name])}
            expected = self.owned(model, phase)
            if phase == "reconstruction":
                expected |= {name for name, _ in model.named_buffers() if ".running_" in name}
            assert changed == expected
            assert all(p.grad is None and p.requires_grad for p in model.parameters())
            seen.append(phase)

        around_phases(model, wrap)
        fit(model, batches(4, labelled=kind == "categorical"))
        assert seen == 4 * list(PHASES if kind == "categorical" else PHASES[:3])

    @pytest.mark.parametrize("kind", KINDS)
    def test_equal_a_slow_reference(self, kind: str) -> None:
        steps, seed, labelled = 3, 5, kind == "categorical"
        rates = {"reconstruction": 2e-2, "discriminator": 3e-2, "generator": 1e-2}
        if labelled:
            rates |= {"agreement": 7e-3, "classification": 5e-3}
        settings: dict[str, dict[str, Any]] = {name: {"lr": lr, "betas": (0.5, 0.9)} for name, lr in rates.items()}
        settings["reconstruction"]["encoder_lr"] = 4e-3
        model = tiny(**{**KINDS[kind], "phases": phases(*rates, **settings)}, seed=seed)
        reference = copy.deepcopy(model)
        start = state(model)
        fit(model, batches(steps, labelled=labelled))
        slow_reference(reference, batches(steps, labelled=labelled), list(rates.values()), 4e-3, (0.5, 0.9), seed)
        for name, value in reference.state_dict().items():
            close(model.state_dict()[name], value)
            assert not torch.equal(start[name], value)

    def test_draws_depend_on_seed_and_step_only(self) -> None:
        """Not on the state of the global stream, which differs after a restart."""
        ends = []
        for seed, global_seed in [(5, 0), (5, 1), (6, 0)]:
            model = tiny(**GAUSSIAN, seed=seed)
            torch.manual_seed(global_seed)
            fit(model, batches(2, labelled=False))
            ends.append(state(model))
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        assert not torch.equal(ends[0]["posterior.mean.weight"], ends[2]["posterior.mean.weight"])

    def test_draws_in_double_precision_training_are_the_same(self) -> None:
        """``64-true`` changes the default dtype while a batch is trained on; the draws stay what they are."""
        ends = []
        for precision in ("32-true", "64-true"):
            model = tiny(**GAUSSIAN)
            fit(model, batches(2, labelled=False), precision=precision)
            ends.append(state(model))
        for name in ends[0]:
            close(ends[0][name], ends[1][name])

    def test_a_phase_that_is_alone_first(self) -> None:
        model = tiny(phases=phases(classification={"alone": 2}))
        seen = []
        around_phases(model, lambda phase, run: (run(), seen.append((model.global_step, phase)))[0])
        fit(model, batches(3))
        assert seen == [(0, "classification"), (1, "classification"), *[(2, phase) for phase in PHASES]]

    def test_the_first_phase_moves_the_running_statistics(self) -> None:
        model = tiny(phases=phases(classification={"alone": 2}))
        before = {name: value for name, value in state(model).items() if name.endswith("running_mean")}
        fit(model, batches(1))
        assert before
        assert not any(torch.equal(state(model)[name], value) for name, value in before.items())

    def test_a_loss_that_is_not_finite_stops_the_training(self) -> None:
        model = tiny()
        with torch.no_grad():
            model.decoder.head.params.bias.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="reconstruction phase is nan at step 0"):
            fit(model, batches(1))


def slow_reference(
    model: PixelGAN,
    data: Sequence[dict[str, Any]],
    rates: Sequence[float],
    encoder_lr: float,
    betas: tuple[float, float],
    seed: int,
) -> None:
    """The phases in plain torch, one after the other: gradients by ``autograd.grad``, an optimizer for each."""
    encoder, posterior, decoder, discriminator = model.encoder, model.posterior, model.decoder, model.discriminator
    recognition = [*encoder.parameters(), *posterior.parameters()]
    own = [[*decoder.parameters(), *recognition], list(discriminator.parameters()), *3 * [recognition]]
    adam = [torch.optim.Adam(p, lr=lr, betas=betas) for p, lr in zip(own, rates, strict=False)]
    adam[0] = torch.optim.Adam(
        [{"params": list(decoder.parameters()), "lr": rates[0]}, {"params": recognition, "lr": encoder_lr}], betas=betas
    )
    noise_scale = discriminator.code_noise
    model.train()

    def step(phase: int, loss: Tensor) -> None:
        for p, gradient in zip(own[phase], torch.autograd.grad(loss, own[phase]), strict=True):
            p.grad = gradient
        adam[phase].step()

    for number, batch in enumerate(data):
        x = batch["unlabelled"]["image"]
        n = len(x)

        def normal(purpose: str, width: int, n: int = n, number: int = number) -> Tensor:
            return RowDraws(seed, number).normal(purpose, n, width).double()

        def view(purpose: str, x: Tensor = x, number: int = number) -> Tensor:
            if model.augmentation is None:
                return x
            return model.augmentation(x, RowDraws(seed, number).uniform(f"view {purpose}", len(x), 6).double())

        def standardised(features: Tensor) -> Tensor:
            logits = features @ posterior.linear.weight.T
            return 3 * (logits - logits.mean(0)) / (logits.var(0, correction=0) + 1e-5).sqrt()

        def code(
            phase: str,
            view: Callable[[str], Tensor] = view,
            normal: Callable[[str, int], Tensor] = normal,
            standardised: Callable[[Tensor], Tensor] = standardised,
        ) -> Tensor:
            features = encoder(view(phase))
            if isinstance(posterior, GaussianPosterior):
                noise = normal(f"posterior {phase}", 2)
                return posterior.mean(features) + posterior.log_scale(features).exp() * noise
            if phase == "reconstruction":
                norm = posterior.norm
                raw = (features @ posterior.linear.weight.T).detach()
                norm.running_mean.mul_(0.9).add_(0.1 * raw.mean(0))
                norm.running_var.mul_(0.9).add_(0.1 * raw.var(0))
            return standardised(features).softmax(1)

        def verdict(z: Tensor, purpose: str, normal: Callable[[str, int], Tensor] = normal) -> Tensor:
            if noise_scale:
                z = z + noise_scale * normal(f"blur {purpose}", z.shape[1])
            return discriminator(z).sigmoid()

        with running_statistics(encoder):
            z = code("reconstruction")
        p = decoder(x, z).sigmoid()
        step(0, -(x * p.log() + (1 - x) * (1 - p).log()).sum() / n)

        real = model.prior.keyed(RowDraws(seed, number), "prior", n).double()
        fake = code("discriminator").detach()
        on_real, on_fake = verdict(real, "real"), verdict(fake, "fake")
        step(1, -0.5 * (on_real.log().mean() + (1 - on_fake).log().mean()))

        step(2, -verdict(code("generator"), "generator").log().mean())

        if "agreement" in model.phases:
            q = standardised(encoder(torch.cat([view("agreement"), view("second agreement")]))).softmax(1)
            joint = torch.stack([q[i, :, None] * q[n + i, None, :] for i in range(n)]).mean(0)
            joint = (joint + joint.T) / 2
            step(3, -(joint * (joint / (joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True))).log()).sum())

        if "labelled" in batch:
            views = torch.cat([view("classification"), view("labelled classification", batch["labelled"]["image"])])
            q = standardised(encoder(views)).softmax(1)[n:]
            step(4, -q[torch.arange(n), batch["labelled"]["label"]].log().mean())


class TestSteps:
    def test_global_step_counts_batches(self) -> None:
        model = tiny()
        seen = []
        around_phases(model, lambda phase, run: (run(), seen.append((model.global_step, phase)))[0])
        run = fit(model, batches(3), max_steps=5, max_epochs=-1)
        assert run.global_step == 5
        assert seen == [(step, phase) for step in range(5) for phase in PHASES]

    @pytest.mark.parametrize("arguments", [{}, {"phases": phases(classification={"alone": 3})}], ids=["all", "alone"])
    def test_checkpoints_every_n_batches(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        callback = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        fit(tiny(**arguments), batches(3), max_steps=5, max_epochs=-1, callbacks=[callback], enable_checkpointing=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step=2.ckpt", "step=4.ckpt"]

    def test_of_a_continued_fit_counts_on_outside_of_it(self, tmp_path: Path) -> None:
        fit(tiny(), batches(2)).save_checkpoint(tmp_path / "two.ckpt")
        model, run = tiny(), trainer(max_epochs=2)
        run.fit(model, loader(batches(2)), ckpt_path=tmp_path / "two.ckpt")
        data = loader([{"image": images(2, 0)}])
        (logged,) = run.test(model, data, verbose=False)
        assert logged["step"] == 4
        (logged,) = run.test(model, data, ckpt_path=tmp_path / "two.ckpt", verbose=False)
        assert logged["step"] == 2

    def test_learning_rates_by_step(self) -> None:
        model = tiny(
            phases=phases(
                reconstruction={"lr": 0.1, "schedule": "linear", "final_lr_factor": 0.5, "encoder_lr": 0.01},
                discriminator={"lr": 0.2, "warmup_steps": 3},
                generator={"lr": 0.4, "schedule": "cosine"},
                agreement={"lr": 0.3},
                classification={"lr": 0.8, "schedule": "cosine", "warmup_steps": 2, "final_lr_factor": 0.25},
            )
        )
        rates: dict[str, list[list[float]]] = {phase: [] for phase in PHASES}

        def wrap(phase: str, run: Callable[[], None]) -> None:
            run()
            optimizer = model.optimizers()[PHASES.index(phase)]  # type: ignore[index]
            rates[phase].append([group["lr"] for group in optimizer.param_groups])

        around_phases(model, wrap)
        fit(model, batches(3), max_steps=6, max_epochs=-1)
        linear = [1, 11 / 12, 10 / 12, 9 / 12, 8 / 12, 7 / 12]
        half_cosine = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
        down = [0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
        assert rates["reconstruction"] == [pytest.approx([0.1 * f, 0.01 * f]) for f in linear]
        assert rates["discriminator"] == [pytest.approx([0.2 * f]) for f in [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]]
        assert rates["generator"] == [pytest.approx([0.4 * f]) for f in half_cosine]
        assert rates["agreement"] == 6 * [[0.3]]
        assert rates["classification"] == [pytest.approx([0.8 * f]) for f in [1 / 3, 2 / 3, *down]]

    @pytest.mark.parametrize("phase", PHASES)
    def test_clip_norm(self, phase: str) -> None:
        seen = []
        for clip in (None, 1e-3, 1e3):
            model = tiny(phases=phases(**{phase: {"clip_norm": clip}}))
            seen.append(self.gradients_of_first_step(model, phase))
        plain, clipped, loose = seen
        norm = plain.norm()
        assert norm > 1e-3
        close(clipped.norm().item(), 1e-3, atol=1e-6)
        assert_close(clipped / clipped.norm(), plain / norm, rtol=0, atol=1e-10)
        close(loose, plain)

    @staticmethod
    def gradients_of_first_step(model: PixelGAN, phase: str) -> Tensor:
        """What the optimizer of a phase was given in the first batch, as one vector."""
        seen: list[Tensor] = []

        class Watch(pl.Callback):
            def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
                    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
                    if gradients[0] is not None:  # not the step that only counts
                        seen.append(torch.cat([g.flatten().clone() for g in gradients if g is not None]))

                trainer.optimizers[PHASES.index(phase)].register_step_pre_hook(look)

        fit(model, batches(1), callbacks=[Watch()])
        assert len(seen) == 1
        return seen[0]


def test_a_schedule_begins_with_its_phase() -> None:
    """The batches in which another phase is alone are not part of it."""
    waiting = {"lr": 0.4, "warmup_steps": 3, "schedule": "linear"}
    model = tiny(phases=phases(classification={"alone": 10, **waiting}, generator=waiting))
    generator, classification = model.phases["generator"], model.phases["classification"]
    assert [generator.learning_rates(10 + step, 18) for step in range(8)] == [
        classification.learning_rates(step, 8) for step in range(8)
    ]
    assert classification.learning_rates(0, 18)[1] == pytest.approx(0.1)


@pytest.mark.parametrize("step", ["sequential", "fused"])
def test_a_delay_of_the_encoder(step: str) -> None:
    """The decoder learns as without it, the encoder rests; then the encoder has its schedule from the beginning."""
    reconstruction = ReconstructionPhase(lr=0.1, encoder_lr=0.2, encoder_delay=3, warmup_steps=1)
    assert [reconstruction.learning_rates(number, 9) for number in range(6)] == [
        (0.0, 0.05), (0.0, 0.1), (0.0, 0.1), (0.1, 0.1), (0.2, 0.1), (0.2, 0.1),
    ]  # fmt: skip
    delayed = {"encoder_delay": 3}
    names = ("reconstruction", "discriminator", "generator")
    model = tiny(phases=phases(*names, reconstruction=delayed, generator=delayed), step=step)
    seen: list[tuple[Tensor, ...]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            recognition = [*model.encoder.parameters(), *model.posterior.parameters()]
            parts = recognition, [*model.decoder.parameters()]
            seen.append(tuple(torch.cat([p.detach().flatten() for p in part]) for part in parts))

    fit(model, batches(6), callbacks=[Watch()])
    moved = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(seen)]
    assert [encoder for encoder, _ in moved] == [False, False, False, True, True]
    assert all(decoder for _, decoder in moved)


class TestPhaseOptimizer:
    def test_factor_ends_where_it_should(self) -> None:
        for schedule in ("cosine", "linear"):
            setting = PhaseOptimizer(schedule=schedule, final_lr_factor=0.1, warmup_steps=4)  # type: ignore[arg-type]
            assert [setting.factor(step, 20) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
            assert setting.factor(4, 20) == 1.0
            assert setting.factor(12, 20) == pytest.approx(0.55)
            assert setting.factor(20, 20) == setting.factor(30, 20) == pytest.approx(0.1)

    def test_it_rises_stays_and_falls(self) -> None:
        setting = PhaseOptimizer(
            schedule="linear", initial_lr_factor=0.1, warmup_steps=2, stable_steps=3, decay_steps=4, final_lr_factor=0.2
        )
        expected = [0.4, 0.7, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
        for total in (100, math.inf):  # a fall of known length needs no end
            assert [setting.factor(step, total) for step in range(11)] == pytest.approx(expected)
        assert not setting.needs_an_end
        rest = PhaseOptimizer(schedule="linear", stable_steps=4)
        assert [rest.factor(step, 8) for step in range(9)] == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])

    @pytest.mark.parametrize("total", [math.inf, -1])
    def test_of_unknown_length_is_constant(self, total: float) -> None:
        assert PhaseOptimizer(schedule="cosine").factor(1000, total) == 1.0

    def test_adam_gets_its_settings(self) -> None:
        weight = nn.Parameter(torch.zeros(1))
        optimizer = PhaseOptimizer(lr=0.3, betas=[0.5, 0.9], weight_decay=0.1).build([{"params": [weight]}])  # type: ignore[arg-type]
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.3, (0.5, 0.9), 0.1)


# ---------------------------------------------------------------------------------------------------------- evaluation


class TestEvaluation:
    def test_validation_logs_the_reconstruction(self) -> None:
        model = tiny()
        x = images(8, "validation")
        data = [{"image": x[:5], "label": torch.zeros(5)}, {"image": x[5:], "label": torch.zeros(3)}]
        (logged,) = trainer().validate(model, loader(data), verbose=False)
        codes = model.encode(x)
        one_hot = F.one_hot(codes.argmax(1), CLASSES).double()
        with torch.no_grad():
            assert logged["val/reconstruction"] == pytest.approx(-model.reconstruct(x, codes).mean().item())
            assert logged["val/reconstruction_one_hot"] == pytest.approx(-model.reconstruct(x, one_hot).mean().item())

    def test_predictions(self) -> None:
        model = tiny()
        batch = {"image": images(4, "predict"), "label": torch.tensor([0, 1, -1, 2]), "index": torch.arange(4)}
        row = model.predict_step(batch, 0)
        assert torch.equal(row["code"], model.encode(batch["image"]))
        assert torch.equal(row["probabilities"], row["code"])
        assert row["index"] is batch["index"]
        assert row["label"] is batch["label"]
        assert set(tiny(**GAUSSIAN).predict_step(batch, 0)) == {"index", "label", "code"}

    def test_predictions_of_one_hot_codes_have_the_probability_of_the_softmax(self) -> None:
        soft, hard = tiny(), tiny(posterior=CategoricalPosterior(straight_through="argmax"))
        hard.load_state_dict(soft.state_dict())
        batch = {"image": images(4, "predict"), "label": torch.zeros(4), "index": torch.arange(4)}
        of_soft, of_hard = soft.predict_step(batch, 0), hard.predict_step(batch, 0)
        assert (of_hard["code"].amax(1) == 1).all()
        assert of_hard["probabilities"].max() < 1
        close(of_hard["probabilities"], of_soft["probabilities"])


METHODS: dict[str, Callable[[PixelGAN], Tensor]] = {
    "encode": lambda model: model.encode(images(4, 0)),
    "features": lambda model: model.features(images(4, 0)),
    "category_logits": lambda model: model.category_logits(images(4, 0)),
    "sample": lambda model: model.sample(4, seed=2),
    "forward": lambda model: model(torch.eye(CLASSES).double()),
    "log_joint": lambda model: model.log_joint(images(4, 0)),
    "log_prob": lambda model: model.log_prob(images(4, 0)),
    "bayes_posterior": lambda model: model.bayes_posterior(images(4, 0)),
}


@pytest.mark.parametrize("name", METHODS)
class TestInference:
    def test_leaves_modes_and_random_state_alone(self, name: str) -> None:
        model = tiny()
        model.train()
        model.posterior.eval()
        model.encoder.layers[1].eval()
        modes = [module.training for module in model.modules()]
        before, random_state = state(model), torch.get_rng_state()
        result = METHODS[name](model)
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert not result.requires_grad

    def test_runs_in_evaluation_mode(self, name: str) -> None:
        model = tiny()
        modes: list[bool] = []
        used = (model.encoder, model.posterior, model.decoder)
        for module in (m for part in used for m in part.modules() if not list(m.children())):
            module.register_forward_pre_hook(lambda module, args: modes.append(module.training))
        in_training = METHODS[name](model.train())
        assert modes
        assert not any(modes)
        assert torch.equal(in_training, METHODS[name](model.eval()))

    def test_restores_modes_after_an_error(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny().train()
        for method in ("recognise", "reconstruct"):
            monkeypatch.setattr(model, method, lambda *args: 1 / 0)
        monkeypatch.setattr(model.decoder, "sample", lambda *args: 1 / 0)
        monkeypatch.setattr(model.posterior, "logits", lambda *args: 1 / 0)
        monkeypatch.setattr(model.encoder, "forward", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            METHODS[name](model)
        assert all(module.training for module in model.modules())


class TestSample:
    def test_is_a_function_of_codes_and_seed(self) -> None:
        model = tiny()
        codes = model.prior.sample(6, keyed_generator("codes"))
        assert torch.equal(model.sample(codes, seed=1), model.sample(codes, seed=1))
        assert not torch.equal(model.sample(codes, seed=1), model.sample(codes, seed=2))
        assert torch.equal(model(codes), model.sample(codes))

    def test_images(self) -> None:
        drawn = tiny(likelihood=CategoricalLevels(5), image_shape=(3, 4, 5)).sample(7)
        assert drawn.shape == (7, 3, 4, 5)
        assert set((4 * drawn).unique().tolist()) == {0, 1, 2, 3, 4}

    def test_temperature_sharpens(self) -> None:
        model = tiny()
        cold = [model.sample(torch.eye(CLASSES)[:1], seed=seed, temperature=1e-6) for seed in range(3)]
        assert torch.equal(cold[0], cold[1])
        assert torch.equal(cold[0], cold[2])

    @pytest.mark.parametrize("codes", [torch.zeros(2, CLASSES + 1), torch.zeros(CLASSES), torch.zeros(1, 1, CLASSES)])
    def test_unusable_codes(self, codes: Tensor) -> None:
        with pytest.raises(ConfigurationError, match=rf"codes of shape \[.*\] .* allowed is \[N, {CLASSES}\]"):
            tiny().sample(codes)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
    def test_unusable_temperature(self, temperature: float) -> None:
        with pytest.raises(ConfigurationError, match=f"temperature={temperature} .* > 0"):
            tiny().sample(1, temperature=temperature)


class TestCode:
    def test_encode_is_the_mode_and_no_other_image_matters(self) -> None:
        for model in (tiny(), tiny(**GAUSSIAN)):
            x = images(5, 0)
            codes = model.encode(x)
            assert codes.shape == (5, model.prior.code_dim)
            close(model.encode(x[:1]), codes[:1])
            with torch.no_grad():
                close(codes, model.eval().recognise(x))

    def test_categories(self) -> None:
        model = tiny()
        x = images(5, 0)
        close(model.category_logits(x).softmax(1), model.encode(x))

    def test_categories_of_views(self) -> None:
        """The mean of q(y|x) over the same views for every image, whatever batch it comes in."""
        model = tiny().eval()
        x, draws = images(5, 0), []
        assert isinstance(model.augmentation, RandomAffine)
        handle = model.augmentation.register_forward_pre_hook(lambda module, inputs: draws.append(inputs[1]))
        logits = model.category_logits(x, views=3)
        handle.remove()
        assert all(d.min() >= 0.25 and d.max() <= 0.75 and torch.equal(d[0], d[4]) for d in draws)
        assert len({d[0, 0].item() for d in draws}) == 3
        views = [model.category_logits(model.augmentation(x, d)).softmax(1) for d in draws]
        close(logits.exp(), torch.stack(views).mean(0))
        close(model.category_logits(x[2:3], views=3), logits[2:3])
        with pytest.raises(ConfigurationError, match="views=3 with augmentation=None is not usable"):
            tiny(augmentation=None, phases=phases("reconstruction")).category_logits(x, views=3)

    def test_are_refused_where_there_are_none(self) -> None:
        model = tiny(**GAUSSIAN)
        with pytest.raises(ConfigurationError, match="posterior=GaussianPosterior has no categories"):
            model.category_logits(images(2, 0))
        with pytest.raises(ConfigurationError, match="prior=Gaussian has no exact log p"):
            model.log_joint(images(2, 0))
        with pytest.raises(ConfigurationError, match="prior=Gaussian has no exact log p"):
            model.log_prob(images(2, 0))


# --------------------------------------------------------------------------------------------------------- checkpoints

USER_PRIOR = """
import torch
from pixelgan_lightning.priors import Prior

class Ring(Prior):
    def __init__(self, radius, **more):
        super().__init__()
        self.code_dim, self.radius, self.more = 2, radius, more

    def sample(self, n, generator):
        angle = 6.2831853 * torch.rand(n, generator=generator)
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module outside of the package."""
    (tmp_path / "priors_of_a_user.py").write_text(USER_PRIOR)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("priors_of_a_user")
    del sys.modules["priors_of_a_user"]


class TestCheckpoint:
    @staticmethod
    def save(model: PixelGAN, path: Path) -> None:
        run = fit(model, batches(2, labelled=model.prior.num_categories is not None))
        run.save_checkpoint(path)

    @pytest.mark.parametrize(
        "arguments",
        [
            CATEGORICAL,
            GAUSSIAN,
            {"posterior": CategoricalPosterior(2.0, standardize=False), "encoder": ConvEncoder([8], norm="group")},
            {"phases": phases(reconstruction={"lr": 2e-3, "schedule": "cosine"}, generator={"betas": [0.5, 0.9]})},
        ],
        ids=["categorical", "gaussian", "group_norm", "optimizers"],
    )
    def test_restores_the_model(self, arguments: dict[str, Any], tmp_path: Path) -> None:
        model = tiny(**arguments)
        self.save(model, path := tmp_path / "model.ckpt")
        again = PixelGAN.load_from_checkpoint(path, map_location="cpu", weights_only=True).double()
        assert again.hparams == model.hparams
        for name, phase in model.phases.items():
            assert again.phases[name].optimizer == phase.optimizer
        assert again.state_dict().keys() == model.state_dict().keys()
        # The constructor makes float32 parameters, into which the float64 ones of this file are rounded.
        model = model.float().double()
        x = images(5, 0)
        assert torch.equal(again.encode(x), model.encode(x))
        assert torch.equal(again.sample(6, seed=1), model.sample(6, seed=1))
        if model.prior.enumerate() is not None:
            assert torch.equal(again.log_prob(x), model.log_prob(x))

    def test_of_a_prior_from_elsewhere(self, user_module: Any, tmp_path: Path) -> None:
        model = tiny(prior=user_module.Ring(2.5, phase=0.5), discriminator=MLPDiscriminator([8]))
        assert isinstance(model.posterior, DeterministicPosterior)
        self.save(model, path := tmp_path / "model.ckpt")
        again = PixelGAN.load_from_checkpoint(path, map_location="cpu", weights_only=True).double()
        assert again.prior.describe() == {
            "class_path": "priors_of_a_user.Ring",
            "init_args": {"radius": 2.5, "phase": 0.5},
        }
        assert torch.equal(again.sample(6, seed=1), model.float().double().sample(6, seed=1))

    def test_names_version_and_split(self) -> None:
        model = tiny()
        checkpoint: dict[str, Any] = {}
        model.on_save_checkpoint(checkpoint)
        assert checkpoint["pixelgan_lightning"] == {"version": __version__, "split_hash": None, "averaged": False}
        run = fit(model, batches(1))
        run.datamodule = SimpleNamespace(split_hash="abc", batch_size=6)  # type: ignore[attr-defined]
        checkpoint = {"loops": {}}
        model.on_save_checkpoint(checkpoint)
        about = checkpoint["pixelgan_lightning"]
        assert about["split_hash"] == "abc"
        assert about["images_per_step"] == {"batch_size": 6}

    def test_components_are_copied(self) -> None:
        prior, discriminator = Categorical(CLASSES), MLPDiscriminator([8])
        one, other = tiny(prior=prior, discriminator=discriminator), tiny(prior=prior, discriminator=discriminator)
        assert one.discriminator is not other.discriminator
        assert not list(discriminator.parameters())
        assert one.prior is not prior

    def test_descriptions_and_instances_give_the_same_model(self) -> None:
        given = tiny()
        names = ("augmentation", "prior", "posterior", "encoder", "decoder", "discriminator", "phases")
        described = tiny(**{name: given.hparams[name] for name in names})
        assert described.hparams == given.hparams
        assert all(torch.equal(given.state_dict()[name], value) for name, value in described.state_dict().items())

    def test_defaults(self) -> None:
        model = PixelGAN()
        assert model.image_shape == (1, 28, 28)
        assert model.prior.num_categories == 10
        assert isinstance(model.posterior, CategoricalPosterior)


# -------------------------------------------------------------------------------------------------------------- errors

UNUSABLE: dict[str, tuple[Callable[[], object], str]] = {
    "alone": (lambda: tiny(phases=phases(agreement={"alone": -1})), "alone=-1 of AgreementPhase .* >= 0"),
    "two_alone": (
        lambda: tiny(phases=phases(agreement={"alone": 2}, classification={"alone": 1})),
        "alone > 0 of agreement and classification is not usable",
    ),
    "alone_without_categories": (
        lambda: tiny(prior=GaussianMixture(CLASSES), phases=phases("classification", classification={"alone": 2})),
        "prior=GaussianMixture with num_categories=None",
    ),
    "agreement_without_categories": (
        lambda: tiny(**PLANES, phases=phases(), augmentation=RandomAffine()),
        "prior=ProductPrior with num_categories=None is not usable with labels, agreement",
    ),
    "no_phases": (lambda: tiny(phases={}), "phases={} is not usable: allowed is one phase or more"),
    "name_of_a_phase": (lambda: tiny(phases={"a.b": GeneratorPhase()}), "phases.a.b is not usable: allowed are names"),
    "name_of_a_method": (lambda: tiny(phases={"items": GeneratorPhase()}), "phases.items is not usable"),
    "image_shape": (lambda: tiny(image_shape=(28, 28)), r"image_shape=\[28, 28\] .* three numbers >= 1"),
    "empty_image": (lambda: tiny(image_shape=(1, 0, 4)), r"image_shape=\[1, 0, 4\] .* three numbers >= 1"),
    "images": (lambda: ReconstructionPhase(images=0), "images=0 .* >= 1"),
    "agreement": (lambda: tiny(augmentation=None), "AgreementPhase with augmentation=None .* an augmentation"),
    "encoder_lr": (lambda: ReconstructionPhase(encoder_lr=0.0), "encoder_lr=0.0 .* > 0"),
    "posterior": (lambda: tiny(posterior=GaussianPosterior()), "posterior=GaussianPosterior does not fit"),
    "kind": (lambda: tiny(prior=GaussianPosterior()), "prior=GaussianPosterior.* allowed are a Prior"),
    "class_path": (lambda: tiny(prior={"class_path": "os.system"}), "class_path='os.system' is not usable"),
    "lr": (lambda: PhaseOptimizer(lr=0), "lr=0 .* > 0"),
    "lr_of_a_phase": (lambda: GeneratorPhase(lr=-1.0), "GeneratorPhase.lr=-1.0 .* > 0"),
    "encoder_delay": (lambda: GeneratorPhase(encoder_delay=-1), "encoder_delay=-1 of GeneratorPhase .* >= 0"),
    "encoder_delay_of_none": (
        lambda: DiscriminatorPhase(encoder_delay=5),
        "encoder_delay=5 of DiscriminatorPhase .* allowed is 0",
    ),
    "unknown": (
        lambda: GeneratorPhase(rate=1.0),
        "rate=1.0 of GeneratorPhase .* allowed are alone, encoder_delay, lr, betas",
    ),
    "described": (
        lambda: tiny(phases={"mine": {"class_path": "os.system"}}),
        "phases.mine: class_path='os.system' is not usable",
    ),
    "three_betas": (lambda: PhaseOptimizer(betas=(0.9, 0.9, 0.9)), r"betas=\[0.9, 0.9, 0.9\] .* two values"),  # type: ignore[arg-type]
    "schedule": (lambda: PhaseOptimizer(schedule="step"), "schedule='step' .* 'constant', 'cosine', 'linear'"),  # type: ignore[arg-type]
    "clip_norm": (lambda: PhaseOptimizer(clip_norm=0), "clip_norm=0 .* > 0 and null"),
    "warmup_steps": (lambda: PhaseOptimizer(warmup_steps=-1), "warmup_steps=-1 .* >= 0"),
    "decay_steps": (lambda: PhaseOptimizer(decay_steps=0), "decay_steps=0 .* >= 1 and null"),
    "betas": (lambda: PhaseOptimizer(betas=(0.9, 1.0)), r"betas=\[0.9, 1.0\] .* in \[0, 1\)"),
    "weight_decay": (lambda: PhaseOptimizer(weight_decay=-0.1), "weight_decay=-0.1 .* >= 0"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_arguments(name: str) -> None:
    make, message = UNUSABLE[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


class Data(pl.LightningDataModule):
    """What the model looks at in a data module."""

    def __init__(self, levels: int = 2, num_labelled: int | None = None, batch: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.levels, self.num_labelled, self.batch = levels, num_labelled, batch or batches(1)[0]

    def train_dataloader(self) -> DataLoader:
        return loader([self.batch])


def unlabelled(x: Tensor) -> dict[str, Any]:
    return {"unlabelled": {"image": x, "index": torch.arange(len(x))}}


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({}, {"levels": 5}, "likelihood=Bernoulli with levels=2 .* levels=5"),
        ({**GAUSSIAN, "phases": None}, {"num_labelled": 3}, "prior=Gaussian with num_categories=None"),
        (PLANES, {"num_labelled": 3}, "prior=ProductPrior with num_categories=None is not usable with labels"),
        (GAUSSIAN, {"num_labelled": 3}, "num_labelled=3 is not usable, no phase sees labels"),
        ({"phases": phases(classification={"alone": 2})}, {}, "alone=2 of ClassificationPhase with num_labelled=None"),
        ({"num_classes": 5}, {"num_labelled": 5}, "num_categories=3 .* >= 5"),
        ({}, {"batch": unlabelled(torch.zeros(2, 1, 4, 5))}, r"images of shape \[1, 4, 5\] .* image_shape=\[1, 4, 4\]"),
        ({}, {"batch": unlabelled(torch.full((2, 1, 4, 4), 0.3))}, "image value 0.3 .* levels=2"),
    ],
    ids=[
        "levels",
        "labels_without_categories",
        "labels_without_categories_in_a_product",
        "labels_that_no_phase_sees",
        "labels_that_are_missing",
        "too_few_categories",
        "image_shape",
        "grey",
    ],
)
def test_data_that_does_not_fit(arguments: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer().fit(tiny(**arguments), datamodule=Data(**data))
    assert "\n" not in str(caught.value)


def test_images_are_checked_before_evaluation() -> None:
    data = loader([{"image": torch.zeros(1, 1, 2, 4).double()}])
    with pytest.raises(ConfigurationError, match=r"images of shape \[1, 2, 4\]"):
        trainer().validate(tiny(), data, verbose=False)


def test_more_categories_than_classes_are_fine() -> None:
    run = trainer()
    run.fit(tiny(prior=Categorical(CLASSES + 2)), datamodule=Data(num_labelled=3))
    assert run.global_step == 1
