"""The parts of a model, and what they do when it is trained: codes of images, images of codes, likelihoods."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.component import Component, Description, construct
from pixelgan_lightning.contracts import require_normalization, require_number
from pixelgan_lightning.decoders import Decoder, GatedPixelCNN, Known, draw_uniforms
from pixelgan_lightning.discriminators import Discriminator, MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder, Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods import Bernoulli, Likelihood
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.numerics.inference import inference
from pixelgan_lightning.numerics.precision import exact_float32
from pixelgan_lightning.posteriors import GaussianPosterior, Posterior, default_posterior
from pixelgan_lightning.priors import Categorical, Prior
from pixelgan_lightning.random import keyed_generator


class Autoencoder(nn.Module):
    """The parts of a model and what they do together: codes, samples and likelihoods. No training, no Lightning.

    Images are float tensors ``[B, C, H, W]`` in [0, 1] (see :class:`~pixelgan_lightning.likelihoods.Likelihood`).
    Parts are given as instances or as ``{"class_path", "init_args"}``; they are copied, never shared, and built anew.

    Args:
        image_shape: ``(C, H, W)``.
        num_classes: number of classes of the data, if known.
        prior: ``p(z)``. Default ``Categorical(10)``.
        posterior: ``q(z|x)``. Default: :func:`~pixelgan_lightning.posteriors.default_posterior`.
        encoder: default ``ConvEncoder()``.
        decoder: default ``GatedPixelCNN()``.
        likelihood: default ``Bernoulli()``.
        discriminator: default ``MLPDiscriminator()``.
        augmentation: random views that the encoder sees in training; the decoder's target is the image itself. None:
            the images, as in the paper.
        seed: key of all random draws that are not given another.

    Raises:
        ConfigurationError: parts that do not fit together, or values out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int | None,
        prior: Prior | Description | None,
        posterior: Posterior | Description | None,
        encoder: Encoder | Description | None,
        decoder: Decoder | Description | None,
        likelihood: Likelihood | Description | None,
        discriminator: Discriminator | Description | None,
        augmentation: Augmentation | Description | None,
        seed: int,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ConfigurationError(f"image_shape={list(image_shape)} is not usable: allowed are three numbers >= 1")
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.num_classes, self.seed = num_classes, seed
        self.warm_started = False  # whether weights came from elsewhere
        self.prior: Prior = construct(Categorical(10) if prior is None else prior, Prior)
        require_number("prior", self.prior, "code_dim", 0)
        self.posterior: Posterior = construct(
            default_posterior(self.prior) if posterior is None else posterior, Posterior
        )
        self.encoder: Encoder = construct(ConvEncoder() if encoder is None else encoder, Encoder)
        self.decoder: Decoder = construct(GatedPixelCNN() if decoder is None else decoder, Decoder)
        self.likelihood: Likelihood = construct(Bernoulli() if likelihood is None else likelihood, Likelihood)
        self.discriminator: Discriminator = construct(
            MLPDiscriminator() if discriminator is None else discriminator, Discriminator
        )
        self.augmentation: Augmentation | None = None if augmentation is None else construct(augmentation, Augmentation)

    def parts(self) -> dict[str, Component]:
        """The parts by name, in the order in which they were made; without an augmentation where there is none."""
        return {name: part for name, part in self.named_children() if isinstance(part, Component)}

    def build_parts(self) -> None:
        """Create the parameters of all parts.

        Raises:
            ConfigurationError: parts that do not fit together, or do not keep their contract.
        """
        self.encoder.build(self.image_shape)
        require_number("encoder", self.encoder, "num_features", 1)
        self.posterior.build(self.encoder.num_features, self.prior)
        self.decoder.build(self.image_shape, self.prior.code_dim, self.likelihood)
        if self.discriminator.label_aware and self.num_classes is None:
            raise ConfigurationError("label_aware=True with num_classes=None is not usable: allowed are numbers >= 1")
        if self.discriminator.label_aware and self.prior.num_components != self.num_classes:
            raise ConfigurationError(
                f"label_aware=True with prior={type(self.prior).__name__} is not usable: allowed are priors with "
                f"num_components={self.num_classes}, one for each class"
            )
        self.discriminator.build(max(self.prior.code_dim, 1) + self.label_dim)  # without a code nothing is judged
        for name, part in self.parts().items():
            require_normalization(name, part)

    @property
    def label_dim(self) -> int:
        """Places of a label beside a code that the discriminator sees: one for each class and one for "unknown"."""
        return (self.num_classes or 0) + 1 if self.discriminator.label_aware else 0

    @inference
    def require_categories(self) -> None:
        """Refuse a model whose code has no categories.

        Raises:
            ConfigurationError: it has none.
        """
        if self.prior.num_categories is None:
            raise ConfigurationError(
                f"prior={type(self.prior).__name__} with num_categories=None is not usable with labels, agreement or "
                "other phases that read categories: allowed are priors over categories"
            )
        one = next(self.encoder.parameters()).new_zeros(1, self.encoder.num_features)
        self.posterior.logits(one)  # a posterior without categories says so

    def with_category(self, z: Tensor, one_hot: Tensor) -> Tensor:
        """Codes ``[B, code_dim]`` with other categories, ``[B, K]``."""
        where = self.prior.category_slice
        return one_hot if where is None else torch.cat([z[:, : where.start], one_hot, z[:, where.stop :]], 1)

    def reorder_categories(self, order: Tensor) -> None:
        """Let category ``order[k]`` be called ``k`` from now on; ``order`` is a permutation ``[K]``.

        Raises:
            ConfigurationError: the code has no categories.
        """
        self.posterior.reorder(order)

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
        """Codes ``[B, code_dim]`` of images: the mode of ``q(z|x)``.

        Raises:
            ConfigurationError: images of another shape, or none.
        """
        self._check_shape(x)
        return self.recognise(x)

    @inference
    def features(self, x: Tensor) -> Tensor:
        """What the encoder hands to the posterior, ``[B, encoder.num_features]``: for probes, neighbours and plots.

        Raises:
            ConfigurationError: images of another shape, or none.
        """
        self._check_shape(x)
        return self.encoder(x)

    @inference
    def category_logits(self, x: Tensor, views: int = 0) -> Tensor:
        """Unnormalised ``log q(y|x)``, ``[B, K]``.

        Args:
            x: images ``[B, C, H, W]`` in [0, 1].
            views: 0, or of how many views of each image the mean of ``q(y|x)`` is taken. They are views of the model's
                ``augmentation``, the same ones for all images, milder than in training
                (:meth:`~pixelgan_lightning.augmentations.Augmentation.milder`).

        Raises:
            ConfigurationError: the code is not categorical; views without an augmentation, or less than 0; images of
                another shape, or none.
        """
        self._check_shape(x)
        _require_integer("views", views, 0)
        if not views:
            return self.posterior.logits(self.encoder(x))
        if self.augmentation is None:
            raise ConfigurationError(f"views={views} with augmentation=None is not usable: allowed is an augmentation")
        number = self.augmentation.num_draws
        generator = keyed_generator(self.seed, "views of evaluation")
        draws = self.augmentation.milder(torch.rand(views, number, generator=generator)).to(x)
        log_q = [
            full_precision(self.category_logits(self.augmentation(x, of_one.expand(len(x), -1)))).log_softmax(1)
            for of_one in draws
        ]
        return torch.stack(log_q).logsumexp(0) - math.log(views)

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

        Raises:
            ConfigurationError: fewer than one image, codes of another shape, a temperature that is not positive.
        """
        generator = keyed_generator("sample", seed)
        if not isinstance(codes, Tensor):
            _require_integer("codes", codes, 1)
            codes = self.prior.sample(int(codes), generator)
        if codes.dim() != 2 or codes.shape[1] != self.prior.code_dim or not len(codes):
            raise ConfigurationError(
                f"codes of shape {list(codes.shape)} are not usable: allowed is [N, {self.prior.code_dim}], N >= 1"
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
        if not isinstance(rows, Integral) or not 0 <= rows <= height:
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
    @exact_float32()
    def log_joint(self, x: Tensor, chunk_size: int | None = None) -> Tensor:
        """``log p(k) + log p(x|k)`` in nats, ``[B, K]``, for a prior with finitely many codes.

        Args:
            x: images ``[B, C, H, W]``.
            chunk_size: how many pairs of an image and a code go through the decoder at once, which bounds the memory;
                None for B, K passes of all images.

        Raises:
            ConfigurationError: the prior cannot be enumerated; images of another shape, or none, or with values that
                are no grey level.
        """
        self._check(x)
        finite = self.prior.enumerate()
        if finite is None:
            raise ConfigurationError(
                f"prior={type(self.prior).__name__} has no exact log p(x): allowed are priors with finitely "
                "many codes, for example Categorical"
            )
        codes, log_weights = (t.to(x) for t in finite)
        if chunk_size is None:
            return torch.stack([self.reconstruct(x, code.repeat(len(x), 1)) for code in codes], 1) + log_weights
        _require_integer("chunk_size", chunk_size, 1)
        pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(codes))).to(x.device).view(-1, 2)
        parts = [self.reconstruct(x[image], codes[code]) for image, code in (p.T for p in pairs.split(chunk_size))]
        return torch.cat(parts).view(len(x), len(codes)) + log_weights

    def log_prob(self, x: Tensor, chunk_size: int | None = None) -> Tensor:
        """The exact marginal ``log p(x) = logsumexp_k(log p(k) + log p(x|k))`` in nats per image, ``[B]``.

        Raises:
            ConfigurationError: as in :meth:`log_joint`.
        """
        return self.log_joint(x, chunk_size).logsumexp(1)

    @inference
    @exact_float32()
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
            ConfigurationError: the posterior is not Gaussian, or the prior has no density; images as in
                :meth:`log_joint`.
        """
        self._check(x)
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

    def bayes_posterior(self, x: Tensor, chunk_size: int | None = None) -> Tensor:
        """``log p(k|x)`` by Bayes' rule, ``[B, K]``: a second, generative classifier beside the encoder.

        Args:
            x: images ``[B, C, H, W]``.
            chunk_size: see :meth:`log_joint`.

        Raises:
            ConfigurationError: as in :meth:`log_joint`.
        """
        return self.log_joint(x, chunk_size).log_softmax(1)

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.image_shape:
            raise ConfigurationError(
                f"images of shape {list(x.shape[1:])} are not usable: image_shape={list(self.image_shape)}"
            )
        if not len(x):
            raise ConfigurationError("a batch without images is not usable: allowed is one or more")

    def _check(self, x: Tensor) -> None:
        self._check_shape(x)
        self.likelihood.check(x)


def _require_integer(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, Integral) or value < minimum:
        raise ConfigurationError(f"{name}={value} is not usable: allowed are integers >= {minimum}")
