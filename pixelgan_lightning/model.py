"""The PixelGAN autoencoder (Makhzani and Frey, NIPS 2017, arXiv:1706.00531) as a LightningModule."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pixelgan_lightning import pretrained
from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.component import Description, construct
from pixelgan_lightning.contracts import (
    require_contracts,
    require_evaluation_batch,
    require_normalization,
    require_number,
    require_training_batch,
)
from pixelgan_lightning.decoders import Decoder, GatedPixelCNN
from pixelgan_lightning.discriminators import Discriminator, MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder, Encoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.fused import FusedStep
from pixelgan_lightning.inference import inference
from pixelgan_lightning.likelihoods import Bernoulli, Likelihood
from pixelgan_lightning.optimization import LARGEST, PhaseOptimizer
from pixelgan_lightning.phases import Batch
from pixelgan_lightning.posteriors import Posterior, default_posterior
from pixelgan_lightning.priors import Categorical, Prior
from pixelgan_lightning.random import RowDraws, keyed_seed
from pixelgan_lightning.resume import Resumable
from pixelgan_lightning.weights import build, read_checkpoint, read_folder, warm_start

PHASES = ("reconstruction", "discriminator", "generator", "agreement", "classification")
Step = Literal["sequential", "fused"]


class PixelGAN(FusedStep, Resumable):
    """An encoder, a conditional PixelCNN as decoder, a discriminator that makes all codes together look like a prior.

    It minimises ``-E_x E_q(z|x)[log p(x|z)] + KL(q(z)||p(z))``: the evidence lower bound without its mutual
    information term, the marginal KL replaced by a discriminator (section 2 of the paper).

    Images are float tensors ``[B, C, H, W]`` in [0, 1] (see :class:`~pixelgan_lightning.likelihoods.Likelihood`).
    Components are given as instances or as ``{"class_path", "init_args"}``; they are copied, never shared, and built
    anew: weights come by ``init_from``.

    Args:
        image_shape: ``(C, H, W)``. The command line takes it from the data.
        num_classes: number of classes of the data, if known.
        prior: ``p(z)``. Default ``Categorical(10)``.
        posterior: ``q(z|x)``. Default: :func:`~pixelgan_lightning.posteriors.default_posterior`.
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
        neighbour_steps: batches at the start in which the agreement phase pairs an image with a neighbour that the data
            give (``neighbours`` of the data modules) instead of with itself: categories then follow how images vary,
            not only how views do.
        reconstruction_images: how many images of each process's batch, its first, the reconstruction phase sees: the
            decoder is the expensive part of a step. The other phases see all. In sequential steps the encoder's running
            statistics, which evaluation uses, follow these images. None: all.
        label_aware: the discriminator also sees labels, so that each class owns a component of the prior
            (Adversarial Autoencoders, section 2.3). It needs labels and a prior with a component for every class.
        label_warmup_steps: batches at the start that run the classification phase only.
        agreement_warmup_steps: batches at the start that run the agreement phase only. Labels then only name what was
            found: the categories are put into the order of the classes that they hold most of.
        step: ``sequential``: the phases one after the other, as in the paper. ``fused``: all phases at the same
            parameters, with one pass through the encoder and one optimizer for it, which is faster
            (:class:`~pixelgan_lightning.fused.FusedStep` says what differs).
        accumulate_batches: batches whose gradients are averaged before an optimizer moves.
        compile_decoder: ``torch.compile`` the decoder in place (half a minute once, then faster steps). On a CPU
            in full precision the layers are written out by hand, which is faster, and stay as they are.
        seed: key of all random draws of the training loop; the command line takes it from ``seed_everything``.
        init_from: start from the weights in a checkpoint or exported folder, or of a model that ships with the package
            (:func:`pixelgan_lightning.pretrained.names`), with fresh optimizers; layers of other shapes keep their
            initial values (:func:`~pixelgan_lightning.weights.warm_start`). A checkpoint does not remember it.

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
        neighbour_steps: int = 0,
        reconstruction_images: int | None = None,
        label_aware: bool = False,
        label_warmup_steps: int = 0,
        agreement_warmup_steps: int = 0,
        step: Step = "sequential",
        accumulate_batches: int = 1,
        compile_decoder: bool = False,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        if accumulate_batches < 1:
            raise ConfigurationError(f"accumulate_batches={accumulate_batches} is not usable: allowed are numbers >= 1")
        warmups = {"label_warmup_steps": label_warmup_steps, "agreement_warmup_steps": agreement_warmup_steps}
        for name, steps in warmups.items():
            if steps < 0 or steps % accumulate_batches:
                raise ConfigurationError(
                    f"{name}={steps} is not usable: allowed are multiples of accumulate_batches={accumulate_batches} "
                    "from 0"
                )
        if all(warmups.values()):
            raise ConfigurationError(
                f"label_warmup_steps={label_warmup_steps} is not usable with "
                f"agreement_warmup_steps={agreement_warmup_steps}: allowed is one of them"
            )
        if agreement_warmup_steps and not agree:
            raise ConfigurationError(
                f"agreement_warmup_steps={agreement_warmup_steps} with agree=False is not usable: allowed is agree=True"
            )
        if neighbour_steps < 0 or (neighbour_steps and not agree):
            raise ConfigurationError(
                f"neighbour_steps={neighbour_steps} with agree={agree} is not usable: allowed are 0 and, with "
                "agree=True, numbers >= 1"
            )
        if step not in get_args(Step):
            raise ConfigurationError(f"step={step!r} is not usable: allowed are {', '.join(map(repr, get_args(Step)))}")
        if encoder_lr is not None and not 0 < encoder_lr <= LARGEST:
            raise ConfigurationError(
                f"encoder_lr={encoder_lr} is not usable: allowed are values > 0 and <= {LARGEST:g}, and null"
            )
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
        self.label_warmup_steps, self.agreement_warmup_steps = label_warmup_steps, agreement_warmup_steps
        self.step = step
        self.accumulate_batches = accumulate_batches
        self.reconstruction_images = reconstruction_images
        self.label_aware = label_aware
        self.seed = seed
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
        self.agree, self.neighbour_steps = agree, neighbour_steps
        optimizers = {
            "reconstruction": phase_optimizer("reconstruction", reconstruction),
            "discriminating": phase_optimizer("discriminating", discriminating),
            "generating": phase_optimizer("generating", generating),
            "agreement": phase_optimizer("agreement", agreement),
            "classification": phase_optimizer("classification", classification),
        }
        self.save_hyperparameters(
            {
                "image_shape": list(self.image_shape),
                "num_classes": num_classes,
                "augmentation": None,
                **{name: component.describe() for name, component in self.named_children()},  # type: ignore[operator]
                **{name: {**asdict(o), "betas": list(o.betas)} for name, o in optimizers.items()},
                "agree": agree,
                "neighbour_steps": neighbour_steps,
                "reconstruction_images": reconstruction_images,
                "label_aware": label_aware,
                "encoder_lr": encoder_lr,
                "label_warmup_steps": label_warmup_steps,
                "agreement_warmup_steps": agreement_warmup_steps,
                "step": step,
                "accumulate_batches": accumulate_batches,
                "compile_decoder": compile_decoder,
                "seed": seed,
                "init_from": None,  # a checkpoint has weights of its own
            }
        )
        # The names that lightning-bolts knows; they follow from the others and are not stored.
        self.hparams.update(latent_dim=self.prior.code_dim, img_dim=list(self.image_shape))
        self.phase_optimizers = dict(zip(PHASES, optimizers.values(), strict=True))
        if step == "fused":
            self._require_fusable()
        self.encoder.build(self.image_shape)
        require_number("encoder", self.encoder, "num_features", 1)
        self.posterior.build(self.encoder.num_features, self.prior)
        self.decoder.build(self.image_shape, self.prior.code_dim, self.likelihood)
        # Without a code nothing is discriminated; with labels, they and "unknown" come beside the code.
        self.discriminator.build(max(self.prior.code_dim, 1) + (num_classes + 1 if label_aware and num_classes else 0))
        if label_aware and self.prior.num_components != num_classes:
            raise ConfigurationError(
                f"label_aware=True with prior={type(self.prior).__name__} is not usable: allowed are priors with "
                f"num_components={num_classes}, one for each class"
            )
        if agree or label_warmup_steps:
            self._require_categories()
        for name, component in self.named_children():
            require_normalization(name, component)  # type: ignore[arg-type]
        require_contracts(self)
        if compile_decoder:
            self.decoder.compile()  # in place: the keys of the state dict stay as they are
        self._warm_started = init_from is not None
        if init_from is not None:
            ships = init_from in pretrained.names() and not Path(init_from).exists()
            warm_start(self, pretrained.folder(init_from) if ships else init_from)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **arguments: Any
    ) -> Self:
        """A trained model from a checkpoint, in training mode.

        Code in the file does not run (``weights_only=True``), and nothing is imported for it: a model with parts from
        elsewhere needs their module imported before.

        Args:
            checkpoint_path: a file of this machine.
            map_location: the device.
            arguments: of the model, in place of those in the file.

        Raises:
            ConfigurationError: the file is no checkpoint of a PixelGAN, or names classes that are not to be trusted.
        """
        if not arguments.pop("weights_only", True):
            raise ConfigurationError("weights_only=False is not usable: allowed is True, code is not run")
        stored = read_checkpoint(checkpoint_path, "checkpoint_path")
        stored = replace(stored, description={**stored.description, **arguments})
        return build(cls, stored, f"checkpoint_path={checkpoint_path}").to(map_location).train()

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """A trained model, in evaluation mode, that ships with the package or lies in an exported folder.

        Args:
            name: one of :func:`pixelgan_lightning.pretrained.names`, or the path of a folder made by
                ``pixelgan export``.

        Raises:
            ConfigurationError: there is no such model, or its files do not fit together.
        """
        return build(cls, read_folder(pretrained.folder(name)), f"pretrained={name}")

    def _require_categories(self) -> None:
        if type(self.posterior).logits is Posterior.logits:
            self.posterior.logits(torch.empty(0))  # says why it cannot
        if self.prior.num_categories is None:
            raise ConfigurationError(
                f"prior={type(self.prior).__name__} with num_categories=None is not usable with agree, labels or "
                "label_warmup_steps: allowed are priors over categories"
            )

    def _with_category(self, z: Tensor, one_hot: Tensor) -> Tensor:
        where = self.prior.category_slice
        return one_hot if where is None else torch.cat([z[:, : where.start], one_hot, z[:, where.stop :]], 1)

    # ------------------------------------------------------------------------------------------------- the training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The phases of section 2: one after the other, each with what the one before has written, or fused."""
        step = self.global_step
        # Nothing here draws from the global stream; a component from elsewhere may (dropout), and is to be resumable.
        torch.manual_seed(keyed_seed(self.seed, step, "global stream", self.global_rank))
        phases = self._phases_of(batch)
        draws = RowDraws(self.seed, step, rank=self.global_rank, world_size=self.trainer.world_size, device=self.device)
        with self._one_step_per_batch():
            if self._labels_in(batch) and step == self.agreement_warmup_steps > 0:
                labelled = batch["labelled"]
                self._name_categories(labelled["image"], labelled["label"], batch["unlabelled"]["image"])
            if self.step == "fused":
                self.fused_step(batch, phases, draws)
            else:
                self._sequential_step(batch, phases, draws)

    def _labels_in(self, batch: Batch) -> bool:
        return "labelled" in batch and self.prior.num_categories is not None

    def _phases_of(self, batch: Batch) -> list[str]:
        """Those that this step has, in order."""
        agreement_only = self.global_step < self.agreement_warmup_steps
        labels_only = self.global_step < self.label_warmup_steps and "labelled" in batch
        all_phases = not agreement_only and not labels_only
        has = {
            "reconstruction": all_phases,
            "discriminator": all_phases and self.prior.code_dim > 0,
            "generator": all_phases and self.prior.code_dim > 0,
            "agreement": self.agree and not labels_only,
            "classification": self._labels_in(batch) and not agreement_only,
        }
        return [phase for phase in PHASES if has[phase]]

    def _sequential_step(self, batch: Batch, phases: list[str], draws: RowDraws) -> None:
        x = batch["unlabelled"]["image"]
        if "reconstruction" in phases:
            self.reconstruction_phase(x, draws)
        if "discriminator" in phases:
            seen = self._seen_by_discriminator(batch)
            self.discriminator_phase(seen, draws)
            self.generator_phase(seen, draws)
        if "agreement" in phases:
            self.agreement_phase(x, self._partners(batch["unlabelled"]), draws)
        if "classification" in phases:
            self.classification_phase(batch["labelled"]["image"], batch["labelled"]["label"], x, draws)

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
        data = getattr(self.trainer, "datamodule", None)
        levels = getattr(data, "levels", self.likelihood.levels)
        if levels != self.likelihood.levels:
            raise ConfigurationError(
                f"likelihood={type(self.likelihood).__name__} with levels={self.likelihood.levels} does not fit the "
                f"data, whose images have levels={levels}: allowed are likelihoods with as many (Bernoulli has 2, "
                "CategoricalLevels any number) or, with binarization=threshold, data with 2"
            )
        labels = getattr(data, "num_labelled", None)
        if hasattr(data, "num_labelled") and not labels:
            for name in ("label_aware", "label_warmup_steps"):
                if getattr(self, name):
                    raise ConfigurationError(
                        f"{name}={getattr(self, name)} with num_labelled=None is not usable: allowed are labels"
                    )
        if labels and self.agreement_warmup_steps:
            self._require_all_labels_at_once(data)
        if labels and not self.label_aware:
            self._require_categories()
            k = self.prior.num_categories
            if k is not None and self.num_classes is not None and k < self.num_classes:
                raise ConfigurationError(
                    f"num_categories={k} is not usable with labels: allowed are numbers >= {self.num_classes}, the "
                    "number of classes"
                )

    def _require_all_labels_at_once(self, data: Any) -> None:
        """The batch that names the categories has to show every class, and the encoder alone gets other categories."""
        in_a_batch = getattr(data, "labelled_batch_size", data.num_labelled)  # a data module from elsewhere has none
        if in_a_batch * self.trainer.world_size < data.num_labelled:
            raise ConfigurationError(
                f"labelled_batch_size={in_a_batch} on {self.trainer.world_size} process(es) is not "
                f"usable with agreement_warmup_steps={self.agreement_warmup_steps}: one batch names the categories; "
                f"allowed are batches with all {data.num_labelled} labelled images"
            )
        if self._warm_started:
            raise ConfigurationError(
                f"agreement_warmup_steps={self.agreement_warmup_steps} with init_from and labels is not usable: "
                "naming the categories would put those of the encoder alone into another order; allowed is 0"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready <= 1:  # first batch of a run or an epoch
            self._require_end()
            needs = {name: getattr(self, name) for name in ("label_aware", "label_warmup_steps")}
            require_training_batch(batch, needs)
            self._check(batch["unlabelled"]["image"])
            if self.global_step < self.neighbour_steps and "neighbour" not in batch["unlabelled"]:
                raise ConfigurationError(
                    f"neighbour_steps={self.neighbour_steps} is not usable with data without neighbours: allowed are "
                    "data modules with neighbours >= 1"
                )

    def _require_end(self) -> None:
        """A schedule falls over the whole run."""
        if math.isinf(self.trainer.estimated_stepping_batches):
            for name, optimizer in self.phase_optimizers.items():
                if optimizer.schedule != "constant":
                    raise ConfigurationError(
                        f"schedule={optimizer.schedule!r} of the {name} phase is not usable without an end: allowed "
                        "are max_epochs or max_steps, and 'constant'"
                    )

    # ----------------------------------------------------------------------------------------------- the evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Batch, batch_idx: int, split: str) -> None:
        """Log the reconstruction, ``-E[log p(x|z)]`` in nats per image given the code: no likelihood of the image."""
        if batch_idx == 0:
            require_evaluation_batch(batch)
            self._check(batch["image"])
        x = batch["image"]
        z = self.recognise(x)
        # Lightning averages the number of images over processes, and would cut an integer: 13 images on two are 6 each.
        number: Any = float(len(x))
        log = functools.partial(self.log, on_epoch=True, sync_dist=True, batch_size=number)
        given_code = self.reconstruct(x, z)
        log(f"{split}/reconstruction", -given_code.mean(), prog_bar=True)
        if self.prior.num_categories is not None:
            category = z[:, self.prior.category_slice or slice(None)]
            one_hot = F.one_hot(category.argmax(1), self.prior.num_categories).to(z)
            if not torch.equal(one_hot, category):  # a straight-through posterior gives one-hot codes by itself
                given_code = self.reconstruct(x, self._with_category(z, one_hot))
            log(f"{split}/reconstruction_one_hot", -given_code.mean())

    @inference
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Index, label and code of every image; with categories also ``probabilities``, ``q(y|x)``, ``[B, K]``."""
        x = batch["image"]
        row = {"index": batch["index"], "label": batch["label"]}
        if self.prior.num_categories is None:
            return {**row, "code": self.encode(x)}
        features = self.features(x)
        row["code"] = self.posterior(features)  # where it is one-hot it does not tell the probability
        row["probabilities"] = self.posterior.logits(features).softmax(1)
        return row

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._log_step()

    def on_test_epoch_end(self) -> None:
        self._log_step()

    def _log_step(self) -> None:
        """``step`` is what Lightning's loggers put the numbers of an evaluation at, otherwise 0."""
        self.log("step", float(self.global_step), sync_dist=True)


def phase_optimizer(name: str, given: PhaseOptimizer | dict[str, Any] | None) -> PhaseOptimizer:
    """The optimizer of one phase.

    Raises:
        ConfigurationError: an argument unknown or out of range, which then has ``name`` before it.
    """
    if isinstance(given, PhaseOptimizer):
        return given
    given, known = given or {}, [field.name for field in fields(PhaseOptimizer)]
    if not set(given) <= set(known):
        raise ConfigurationError(f"{name}={given} is not usable: allowed are {', '.join(known)}")
    try:
        return PhaseOptimizer(**given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}.{error}") from None
    except TypeError as error:  # from a file that says what no fit has written
        raise ConfigurationError(f"{name}={given} is not usable: {error}") from error


__all__ = ["PHASES", "PixelGAN"]
