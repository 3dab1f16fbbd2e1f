"""The PixelGAN autoencoder (Makhzani and Frey, NIPS 2017, arXiv:1706.00531) as a LightningModule."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Concatenate, ParamSpec, TypeVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pixelgan_lightning import __version__
from pixelgan_lightning.agreement import pair_information
from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.component import Description, construct
from pixelgan_lightning.decoders import Decoder, GatedPixelCNN, Known, draw_uniforms
from pixelgan_lightning.discriminators import Discriminator, MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder, Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, Likelihood
from pixelgan_lightning.normalization import running_statistics
from pixelgan_lightning.optimization import PhaseOptimizer
from pixelgan_lightning.posteriors import GaussianPosterior, Posterior
from pixelgan_lightning.priors import Categorical, Prior
from pixelgan_lightning.random import RowDraws, keyed_generator

PHASES = ("reconstruction", "discriminator", "generator", "agreement", "classification")

Batch = dict[str, Any]
Part = tuple[str, Tensor, Tensor | None]  # the name of a part of the batch, its images or codes, their labels
P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound="PixelGAN")


def inference(method: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Run a method in evaluation mode and without gradients; the mode of every module is restored afterwards."""

    @functools.wraps(method)
    def wrapper(self: M, *args: P.args, **kwargs: P.kwargs) -> R:
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                return method(self, *args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training

    return wrapper  # type: ignore[return-value]


class PixelGAN(pl.LightningModule):
    """An encoder, a conditional PixelCNN as decoder, a discriminator that makes all codes together look like a prior.

    It minimises ``-E_x E_q(z|x)[log p(x|z)] + KL(q(z)||p(z))``: the evidence lower bound without its mutual
    information term, the marginal KL replaced by a discriminator (section 2 of the paper).

    Images are float tensors ``[B, C, H, W]`` in [0, 1] (see :class:`~pixelgan_lightning.likelihoods.Likelihood`).
    Components are given as instances or as ``{"class_path", "init_args"}``; they are copied, never shared.

    Args:
        image_shape: ``(C, H, W)``. The command line takes it from the data.
        num_classes: number of classes of the data, if known.
        prior: ``p(z)``. Default ``Categorical(10)``.
        posterior: ``q(z|x)``. Default: what the prior suggests.
        encoder: default ``ConvEncoder()``.
        decoder: default ``GatedPixelCNN()``.
        likelihood: default ``Bernoulli()``.
        discriminator: default ``MLPDiscriminator()``.
        reconstruction: optimizer of the reconstruction phase (encoder and decoder).
        encoder_lr: learning rate of the encoder in the reconstruction phase, if it is not that of the decoder.
        discriminating: optimizer of the discriminator in the adversarial phase.
        generating: optimizer of the encoder in the adversarial phase.
        agreement: optimizer of the encoder in the agreement phase.
        classification: optimizer of the encoder in the semi-supervised classification phase.
        augmentation: random views that the encoder sees in training; the decoder's target is the image itself. None:
            the images, as in the paper.
        agree: add the agreement phase, which is not in the paper: two views of an image get the same category
            (:func:`~pixelgan_lightning.agreement.pair_information`).
        reconstruction_images: how many images of each batch, its first, go through the decoder, the expensive part of
            a step; the other phases see all. None: all.
        label_aware: the discriminator also sees labels, so that each class owns a component of the prior
            (Adversarial Autoencoders, section 2.3). It needs labels and a prior with a component for every class.
        label_warmup_steps: batches at the start that run the classification phase only.
        accumulate_batches: batches whose gradients are averaged before an optimizer moves.
        compile_decoder: ``torch.compile`` the decoder in place (half a minute once, then faster steps).
        seed: key of all random draws of the training loop; the command line takes it from ``seed_everything``.

    Raises:
        ConfigurationError: components that do not fit together, or values out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int | None = None,
        prior: Prior | Description | None = None,
        posterior: Posterior | Description | None = None,
        encoder: Encoder | Description | None = None,
        decoder: Decoder | Description | None = None,
        likelihood: Likelihood | Description | None = None,
        discriminator: Discriminator | Description | None = None,
        reconstruction: PhaseOptimizer | dict[str, Any] | None = None,
        encoder_lr: float | None = None,
        discriminating: PhaseOptimizer | dict[str, Any] | None = None,
        generating: PhaseOptimizer | dict[str, Any] | None = None,
        agreement: PhaseOptimizer | dict[str, Any] | None = None,
        classification: PhaseOptimizer | dict[str, Any] | None = None,
        augmentation: Augmentation | Description | None = None,
        agree: bool = False,
        reconstruction_images: int | None = None,
        label_aware: bool = False,
        label_warmup_steps: int = 0,
        accumulate_batches: int = 1,
        compile_decoder: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._trained_steps = 0
        if accumulate_batches < 1:
            raise ConfigurationError(f"accumulate_batches={accumulate_batches} is not usable: allowed are numbers >= 1")
        if label_warmup_steps < 0 or label_warmup_steps % accumulate_batches:
            raise ConfigurationError(
                f"label_warmup_steps={label_warmup_steps} is not usable: allowed are multiples of "
                f"accumulate_batches={accumulate_batches} from 0"
            )
        if encoder_lr is not None and not encoder_lr > 0:
            raise ConfigurationError(f"encoder_lr={encoder_lr} is not usable: allowed are values > 0 and null")
        if reconstruction_images is not None and reconstruction_images < 1:
            raise ConfigurationError(
                f"reconstruction_images={reconstruction_images} is not usable: allowed are numbers >= 1 and null"
            )
        if agree and augmentation is None:
            raise ConfigurationError("agree=True with augmentation=None is not usable: allowed is an augmentation")
        if label_aware and num_classes is None:
            raise ConfigurationError("label_aware=True with num_classes=None is not usable: allowed are numbers >= 1")
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ConfigurationError(f"image_shape={list(image_shape)} is not usable: allowed are three numbers >= 1")
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.num_classes = num_classes
        self.encoder_lr = encoder_lr
        self.label_warmup_steps, self.accumulate_batches = label_warmup_steps, accumulate_batches
        self.reconstruction_images = reconstruction_images
        self.label_aware = label_aware
        self.seed = seed

        self.prior: Prior = construct(Categorical(10) if prior is None else prior, Prior)
        self.posterior: Posterior = construct(
            self.prior.default_posterior() if posterior is None else posterior, Posterior
        )
        self.encoder: Encoder = construct(ConvEncoder() if encoder is None else encoder, Encoder)
        self.decoder: Decoder = construct(GatedPixelCNN() if decoder is None else decoder, Decoder)
        self.likelihood: Likelihood = construct(Bernoulli() if likelihood is None else likelihood, Likelihood)
        self.discriminator: Discriminator = construct(
            MLPDiscriminator() if discriminator is None else discriminator, Discriminator
        )
        self.augmentation: Augmentation | None = None if augmentation is None else construct(augmentation, Augmentation)
        self.agree = agree
        optimizers = {
            "reconstruction": _phase_optimizer(reconstruction),
            "discriminating": _phase_optimizer(discriminating),
            "generating": _phase_optimizer(generating),
            "agreement": _phase_optimizer(agreement),
            "classification": _phase_optimizer(classification),
        }
        self.save_hyperparameters(
            {
                "image_shape": list(self.image_shape),
                "num_classes": num_classes,
                "augmentation": None,
                **{name: component.describe() for name, component in self.named_children()},  # type: ignore[operator]
                **{name: {**asdict(o), "betas": list(o.betas)} for name, o in optimizers.items()},
                "agree": agree,
                "reconstruction_images": reconstruction_images,
                "label_aware": label_aware,
                "encoder_lr": encoder_lr,
                "label_warmup_steps": label_warmup_steps,
                "accumulate_batches": accumulate_batches,
                "compile_decoder": compile_decoder,
                "seed": seed,
            }
        )
        # The names that lightning-bolts knows; they follow from the others and are not stored.
        self.hparams.update(latent_dim=self.prior.code_dim, img_dim=list(self.image_shape))
        self.phase_optimizers = dict(zip(PHASES, optimizers.values(), strict=True))
        self.encoder.build(self.image_shape)
        self.posterior.build(self.encoder.num_features, self.prior)
        self.decoder.build(self.image_shape, self.prior.code_dim, self.likelihood)
        # Without a code nothing is discriminated; with labels, they and "unknown" come beside the code.
        self.discriminator.build(max(self.prior.code_dim, 1) + (num_classes + 1 if label_aware and num_classes else 0))
        if label_aware and self.prior.num_components != num_classes:
            raise ConfigurationError(
                f"label_aware=True with prior={type(self.prior).__name__} is not usable: allowed are priors with "
                f"num_components={num_classes}, one for each class"
            )
        if compile_decoder:
            self.decoder.compile()  # in place: the keys of the state dict stay as they are

    # ---------------------------------------------------------------------------------------------------- the model

    def recognise(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Codes ``[B, code_dim]`` in the current mode, with gradients; without ``noise`` the posterior's mode."""
        if self.prior.code_dim == 0:
            return x.new_zeros(len(x), 0)
        return self.posterior(self.encoder(x), noise)

    def reconstruct(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x|z)`` in nats per image, ``[B]``, in the current mode, with gradients."""
        return self.likelihood.log_prob(self.decoder(x, z), x)

    @inference
    def encode(self, x: Tensor) -> Tensor:
        """Codes ``[B, code_dim]`` of images: the mode of ``q(z|x)``."""
        return self.recognise(x)

    @inference
    def category_logits(self, x: Tensor) -> Tensor:
        """Unnormalised ``log q(y|x)``, ``[B, K]``.

        Raises:
            ConfigurationError: the code is not categorical.
        """
        return self.posterior.logits(self.encoder(x))

    @inference
    def sample(
        self, codes: Tensor | int, seed: int = 0, temperature: float = 1.0, known: Known | None = None
    ) -> Tensor:
        """Draw images ``[N, C, H, W]`` in [0, 1].

        Args:
            codes: ``[N, code_dim]``, or how many codes to draw from the prior.
            seed: the draws are a function of it; the global random stream is left alone.
            temperature: divides the logits of the pixels' distributions.
            known: pixels that are given; see :meth:`complete`.
        """
        generator = keyed_generator("sample", seed)
        if isinstance(codes, int):
            codes = self.prior.sample(codes, generator)
        if codes.dim() != 2 or codes.shape[1] != self.prior.code_dim:
            raise ConfigurationError(
                f"codes of shape {list(codes.shape)} are not usable: allowed is [N, {self.prior.code_dim}]"
            )
        if not temperature > 0:
            raise ConfigurationError(f"temperature={temperature} is not usable: allowed are values > 0")
        codes = codes.to(next(self.decoder.parameters()))
        uniforms = draw_uniforms(self.decoder, len(codes), generator, codes)
        return self.decoder.sample(codes, uniforms, temperature, known)

    def complete(
        self, x: Tensor, rows: int, codes: Tensor | None = None, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Keep the first ``rows`` rows of images ``[B, C, H, W]`` and draw the rest, ``p(x_rest | x_first, z)``.

        Args:
            x: images in [0, 1]; of the rows that are drawn only the encoder may see anything.
            rows: 0 to H.
            codes: ``[B, code_dim]``; None for the codes of ``x`` itself, which the encoder makes of the whole image.
            seed: key of the draws.
            temperature: see :meth:`sample`.

        Raises:
            ConfigurationError: shapes or ``rows`` out of range, image values that are no grey level.
        """
        self._check(x)
        height = self.image_shape[1]
        if not 0 <= rows <= height:
            raise ConfigurationError(f"rows={rows} is not usable: allowed are 0 to {height}")
        codes = self.encode(x) if codes is None else codes
        if len(codes) != len(x):
            raise ConfigurationError(f"codes of {len(codes)} images are not usable: allowed are {len(x)}, one for each")
        mask = torch.zeros(self.image_shape[1:], dtype=torch.bool)
        mask[:rows] = True
        return self.sample(codes, seed, temperature, Known(x, mask))

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` drawn from ``p(x|z)`` for codes ``[B, code_dim]``; see :meth:`sample`."""
        return self.sample(z)

    @inference
    def log_joint(self, x: Tensor, chunk_size: int | None = None) -> Tensor:
        """``log p(k) + log p(x|k)`` in nats, ``[B, K]``, for a prior with finitely many codes.

        Args:
            x: images ``[B, C, H, W]``.
            chunk_size: how many pairs of an image and a code go through the decoder at once, which bounds the memory;
                None for B, K passes of all images.

        Raises:
            ConfigurationError: the prior cannot be enumerated.
        """
        finite = self.prior.enumerate()
        if finite is None:
            raise ConfigurationError(
                f"prior={type(self.prior).__name__} has no exact log p(x): allowed are priors with finitely "
                "many codes, for example Categorical"
            )
        codes, log_weights = (t.to(x) for t in finite)
        if chunk_size is None:
            return torch.stack([self.reconstruct(x, code.repeat(len(x), 1)) for code in codes], 1) + log_weights
        if chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size} is not usable: allowed are numbers >= 1")
        pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(codes))).to(x.device).view(-1, 2)
        parts = [self.reconstruct(x[image], codes[code]) for image, code in (p.T for p in pairs.split(chunk_size))]
        return torch.cat(parts).view(len(x), len(codes)) + log_weights

    def log_prob(self, x: Tensor, chunk_size: int | None = None) -> Tensor:
        """The exact marginal ``log p(x) = logsumexp_k(log p(k) + log p(x|k))`` in nats per image, ``[B]``.

        Raises:
            ConfigurationError: the prior cannot be enumerated.
        """
        return self.log_joint(x, chunk_size).logsumexp(1)

    @inference
    def importance_log_prob(self, x: Tensor, num_samples: int = 64, seed: int = 0, widen: float = 1.0) -> Tensor:
        """``log (1/S) sum_s p(z_s) p(x|z_s) / r(z_s)``, nats per image ``[B]``; z_s from ``r``, Gaussian codes only.

        The proposal ``r(z) = N(mu(x), (widen sigma(x))^2)`` is the encoder's posterior, widened. The estimate of
        ``p(x)`` is unbiased; that of ``log p(x)`` is a lower bound in expectation, tighter with more samples (Burda
        et al., 2016). A posterior narrower than the true one gives estimates with heavy tails: widen it.

        Args:
            x: images ``[B, C, H, W]``.
            num_samples: S, decoder passes per image.
            seed: key of the draws.
            widen: factor on the standard deviation.

        Raises:
            ConfigurationError: the posterior is not Gaussian, or the prior has no density.
        """
        if not isinstance(self.posterior, GaussianPosterior):
            raise ConfigurationError(
                f"posterior={type(self.posterior).__name__} gives no importance weights: allowed is GaussianPosterior"
            )
        if num_samples < 1 or not widen > 0:
            raise ConfigurationError(
                f"num_samples={num_samples} with widen={widen} is not usable: allowed are >= 1 and > 0"
            )
        mean, log_scale = self.posterior.moments(self.encoder(x))
        log_scale = log_scale + math.log(widen)
        log_weights = []
        for s in range(num_samples):
            draw = torch.randn(mean.shape, generator=keyed_generator("importance", seed, s), dtype=torch.float64)
            z = mean + log_scale.exp() * draw.to(mean)
            log_proposal = -(0.5 * (draw.square().to(mean) + math.log(2 * math.pi)) + log_scale).sum(1)
            try:
                log_prior = self.prior.log_prob(z)
            except NotImplementedError as error:
                raise ConfigurationError(
                    f"prior={type(self.prior).__name__} has no density: allowed are priors with log_prob"
                ) from error
            log_weights.append(log_prior + self.reconstruct(x, z) - log_proposal)
        return torch.stack(log_weights).logsumexp(0) - math.log(num_samples)

    def bayes_posterior(self, x: Tensor) -> Tensor:
        """``log p(k|x)`` by Bayes' rule, ``[B, K]``: a second, generative classifier beside the encoder."""
        return self.log_joint(x).log_softmax(1)

    def _require_categories(self) -> None:
        if type(self.posterior).logits is Posterior.logits:
            self.posterior.logits(torch.empty(0))  # says why it cannot

    def _with_category(self, z: Tensor, one_hot: Tensor) -> Tensor:
        where = self.prior.category_slice
        return one_hot if where is None else torch.cat([z[:, : where.start], one_hot, z[:, where.stop :]], 1)

    # ------------------------------------------------------------------------------------------------- the training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The phases of section 2, one after the other; each runs the encoder that the phase before has written."""
        x = batch["unlabelled"]["image"]
        draws = RowDraws(self.seed, self.global_step, rank=self.global_rank, world_size=self.trainer.world_size)
        with self._one_step_per_batch():
            if self.global_step >= self.label_warmup_steps or "labelled" not in batch:
                self.reconstruction_phase(x, draws)
                if self.prior.code_dim:
                    seen = self._seen_by_discriminator(batch)
                    self.discriminator_phase(seen, draws)
                    self.generator_phase(seen, draws)
                if self.agree:
                    self.agreement_phase(x, draws)
            if "labelled" in batch and self.prior.num_categories is not None:
                self.classification_phase(batch["labelled"]["image"], batch["labelled"]["label"], draws)

    def reconstruction_phase(self, x: Tensor, draws: RowDraws) -> None:
        """Encoder and decoder minimise ``-log p(x|z)``, ``z ~ q(z|x)``."""
        with self._phase("reconstruction") as update, running_statistics(self.encoder, self.posterior):
            z = self._draw_code(x, draws, "reconstruction")
            first = slice(self.reconstruction_images)
            update(-self.reconstruct(x[first], z[first]).mean())

    def discriminator_phase(self, seen: Sequence[Part], draws: RowDraws) -> None:
        """The discriminator learns to tell samples of the prior (1) from codes (0)."""
        with self._phase("discriminator") as update:
            with torch.no_grad():
                fake = self._codes(seen, draws, "discriminator")
            on_real = self._judge(self._prior_samples(seen, draws), draws, "real")
            on_fake = self._judge(fake, draws, "fake")
            self._log_train("discriminator_real", on_real.sigmoid().mean(), len(on_real))
            self._log_train("discriminator_fake", on_fake.sigmoid().mean(), len(on_fake))
            update(0.5 * (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()))

    def generator_phase(self, seen: Sequence[Part], draws: RowDraws) -> None:
        """The encoder makes its codes look like samples of the prior (non-saturating loss)."""
        with self._phase("generator") as update:
            fake = self._codes(seen, draws, "generator")
            update(F.softplus(-self._judge(fake, draws, "generator")).mean())

    def agreement_phase(self, x: Tensor, draws: RowDraws) -> None:
        """The encoder gives two views of an image the same category, and makes use of all (Ji et al., 2019)."""
        with self._phase("agreement") as update:
            views = torch.cat([self._view(x, draws, f"agreement {i}") for i in (1, 2)])
            one, two = self.posterior.logits(self.encoder(views)).softmax(1).chunk(2)
            update(-pair_information(one, two))

    def classification_phase(self, x: Tensor, labels: Tensor, draws: RowDraws) -> None:
        """The encoder minimises the cross-entropy of the categorical code's logits on labelled images."""
        # In the warm-up no other phase sees images: without this one, evaluation would have no running statistics.
        owned = (self.encoder, self.posterior) if self.global_step < self.label_warmup_steps else ()
        with self._phase("classification") as update, running_statistics(*owned):
            logits = self.posterior.logits(self.encoder(self._view(x, draws, "classification")))
            update(F.cross_entropy(logits, labels))

    def _draw_code(self, x: Tensor, draws: RowDraws, phase: str) -> Tensor:
        dim = self.posterior.noise_dim
        noise = draws.normal(f"posterior {phase}", len(x), dim).to(x) if dim else None
        return self.recognise(self._view(x, draws, phase), noise)

    def _view(self, x: Tensor, draws: RowDraws, phase: str) -> Tensor:
        if self.augmentation is None:
            return x
        return self.augmentation(x, draws.uniform(f"view {phase}", len(x), self.augmentation.num_draws).to(x))

    def _seen_by_discriminator(self, batch: Batch) -> list[Part]:
        """The images whose codes the discriminator sees; with ``label_aware`` also labelled ones, with labels."""
        x = batch["unlabelled"]["image"]
        if not self.label_aware:
            return [("", x, None)]
        assert self.num_classes is not None
        unknown = torch.full((len(x),), self.num_classes, device=x.device)
        return [("", x, unknown), ("labelled ", batch["labelled"]["image"], batch["labelled"]["label"])]

    def _codes(self, seen: Sequence[Part], draws: RowDraws, phase: str) -> list[Part]:
        return [(part, self._draw_code(x, draws, part + phase), labels) for part, x, labels in seen]

    def _prior_samples(self, seen: Sequence[Part], draws: RowDraws) -> list[Part]:
        """As many samples of the prior as there are images; beside labelled images, with their components as labels."""
        samples: list[Part] = []
        for part, x, labels in seen:
            if part:
                both = draws(f"{part}prior", len(x), self._sample_with_components).to(x)
                samples.append((part, both[:, :-1], both[:, -1].round().long()))
            else:
                samples.append((part, draws("prior", len(x), self.prior.sample).to(x), labels))
        return samples

    def _sample_with_components(self, n: int, generator: torch.Generator) -> Tensor:
        codes, components = self.prior.sample_with_components(n, generator)
        return torch.cat([codes, components[:, None].to(codes)], 1)

    def _judge(self, codes: Sequence[Part], draws: RowDraws, purpose: str) -> Tensor:
        """The discriminator's logits on blurred codes, which come with their labels where it is label-aware."""
        inputs = []
        for part, z, labels in codes:
            scale = self.discriminator.code_noise
            blurred = z + scale * draws.normal(f"blur {part}{purpose}", *z.shape).to(z) if scale else z
            if labels is not None:
                assert self.num_classes is not None
                blurred = torch.cat([blurred, F.one_hot(labels, self.num_classes + 1).to(z)], 1)
            inputs.append(blurred)
        return self.discriminator(torch.cat(inputs))

    @contextmanager
    def _phase(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        """Give the parameters of one phase a gradient and nothing else; yields what applies a loss to them."""
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        optimizer = optimizers[PHASES.index(name)]

        def update(loss: Tensor) -> None:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of the {name} phase is {loss.item()} at step {self.global_step}")
            self._log_train(name, loss.detach())
            self.manual_backward(loss / self.accumulate_batches)
            self._accumulate_or_step(name, optimizer)

        with self.toggled_optimizer(optimizer):
            yield update

    def _accumulate_or_step(self, name: str, optimizer: Any) -> None:
        """Phases share the encoder, so each keeps the sum of its own gradients between steps."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if self.accumulate_batches > 1:
            total = self._gradient_sums.setdefault(name, [torch.zeros_like(p) for p in params])
            for s, p in zip(total, params, strict=True):
                if p.grad is not None:
                    s += p.grad
            if (self.global_step + 1) % self.accumulate_batches:
                optimizer.zero_grad()
                return
            for s, p in zip(self._gradient_sums.pop(name), params, strict=True):
                p.grad = s
        clip_norm = self.phase_optimizers[name].clip_norm
        if clip_norm is not None:
            self.clip_gradients(optimizer, gradient_clip_val=clip_norm, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad()

    @contextmanager
    def _one_step_per_batch(self) -> Iterator[None]:
        """Let ``global_step`` advance by one per batch, and set the learning rates of this step.

        Lightning counts every ``optimizer.step()`` of manual optimization: with four phases ``max_steps``, checkpoints
        and loggers would run four times too fast.
        """
        total_steps = self.trainer.estimated_stepping_batches
        for phase, optimizer in zip(PHASES, self.trainer.strategy._lightning_optimizers, strict=True):
            optimizer._on_before_step = optimizer._on_after_step = _nothing
            self.phase_optimizers[phase].set_learning_rates(optimizer.optimizer, self.global_step, total_steps)
        yield
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def configure_optimizers(self) -> Any:
        recognition = [*self.encoder.parameters(), *self.posterior.parameters()]
        encoder_group: dict[str, Any] = {"params": recognition}
        if self.encoder_lr is not None:
            encoder_group["lr"] = self.encoder_lr
        groups: dict[str, list[dict[str, Any]]] = {
            "reconstruction": [{"params": list(self.decoder.parameters())}, encoder_group],
            "discriminator": [{"params": list(self.discriminator.parameters())}],
            "generator": [{"params": recognition}],
            "agreement": [{"params": recognition}],
            "classification": [{"params": recognition}],
        }
        return [self.phase_optimizers[phase].build(groups[phase]) for phase in PHASES]

    def on_fit_start(self) -> None:
        self._gradient_sums: dict[str, list[Tensor]] = {}
        data = getattr(self.trainer, "datamodule", None)
        levels = getattr(data, "levels", self.likelihood.levels)
        if levels != self.likelihood.levels:
            raise ConfigurationError(
                f"likelihood={type(self.likelihood).__name__} with levels={self.likelihood.levels} does not fit the "
                f"data, whose images have levels={levels}"
            )
        if self.label_aware and not getattr(data, "num_labelled", 1):
            raise ConfigurationError("label_aware=True with num_labelled=None is not usable: allowed are labels")
        if getattr(data, "num_labelled", None) and not self.label_aware:
            self._require_categories()
            k = self.prior.num_categories
            if k is not None and self.num_classes is not None and k < self.num_classes:
                raise ConfigurationError(
                    f"num_categories={k} is not usable with labels: allowed are numbers >= {self.num_classes}, the "
                    "number of classes"
                )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready <= 1:  # first batch of a run or an epoch
            self._check(batch["unlabelled"]["image"])

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.image_shape:
            raise ConfigurationError(
                f"images of shape {list(x.shape[1:])} are not usable: image_shape={list(self.image_shape)}"
            )
        self.likelihood.check(x)

    # ----------------------------------------------------------------------------------------------- the evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Batch, batch_idx: int, split: str) -> None:
        """Log the reconstruction, ``-E[log p(x|z)]`` in nats per image given the code: no likelihood of the image."""
        x = batch["image"]
        if batch_idx == 0:
            self._check(x)
        z = self.recognise(x)
        log = functools.partial(self.log, on_epoch=True, sync_dist=True, batch_size=len(x))
        log(f"{split}/reconstruction", -self.reconstruct(x, z).mean(), prog_bar=True)
        if self.prior.num_categories is not None:
            category = z[:, self.prior.category_slice or slice(None)]
            one_hot = F.one_hot(category.argmax(1), self.prior.num_categories).to(z)
            log(f"{split}/reconstruction_one_hot", -self.reconstruct(x, self._with_category(z, one_hot)).mean())

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Index, label and code of every image; category and probability where the code is categorical."""
        code = self.encode(batch["image"])
        row = {"index": batch["index"], "label": batch["label"], "code": code}
        if self.prior.num_categories is not None:
            row["probability"], row["category"] = code[:, self.prior.category_slice or slice(None)].max(1)
        return row

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._log_step()

    def on_test_epoch_end(self) -> None:
        self._log_step()

    def _log_step(self) -> None:
        """``step`` is what Lightning's loggers put the numbers of an evaluation at, otherwise 0."""
        self.log("step", float(self.global_step), sync_dist=True)

    @property
    def global_step(self) -> int:
        """Batches trained on; outside ``fit`` those behind the loaded weights, which Lightning does not know."""
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            return int(super().global_step)
        return self._trained_steps or int(super().global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._trained_steps = int(checkpoint["global_step"])

    def _log_train(self, name: str, value: Tensor, batch_size: int | None = None) -> None:
        self.log(f"train/{name}", value, prog_bar=name in ("reconstruction", "classification"), batch_size=batch_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for derived in ("latent_dim", "img_dim"):
            checkpoint.get("hyper_parameters", {}).pop(derived, None)
        data = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        checkpoint["pixelgan_lightning"] = {"version": __version__, "split_hash": getattr(data, "split_hash", None)}


def _phase_optimizer(given: PhaseOptimizer | dict[str, Any] | None) -> PhaseOptimizer:
    if isinstance(given, PhaseOptimizer):
        return given
    return PhaseOptimizer(**(given or {}))


def _nothing() -> None:
    """Takes the place of Lightning's step counter."""


__all__ = ["PHASES", "PixelGAN"]
