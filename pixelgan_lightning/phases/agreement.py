"""The agreement phase: what the categories of two views of an image tell about each other, and how labels name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pixelgan_lightning.autoencoder import Autoencoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.likelihoods.base import full_precision
from pixelgan_lightning.numerics.normalization import sum_over_processes
from pixelgan_lightning.phases.base import Encoded, Phase, TrainStep


class AgreementPhase(Phase):
    """The encoder gives two views of an image the same category, and makes use of all categories. Not in the paper.

    It minimises ``-I(y; y')`` in nats, the information of :func:`pair_information`.

    With ``alone`` it finds categories before anything else; labels then only name what was found: after these batches
    the categories are put into the order of the classes that they hold most of.

    Args:
        neighbour_steps: batches at the start that pair an image with a neighbour that the data give (``neighbours`` of
            the data modules) instead of with itself: categories then follow how images vary, not only how views do.
        settings: see :class:`~pixelgan_lightning.phases.base.Phase`.

    Raises:
        ConfigurationError: a value out of range.
    """

    reads = ("logits",)
    finds_categories = True

    def __init__(self, neighbour_steps: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        if neighbour_steps < 0:
            raise ConfigurationError(f"neighbour_steps={neighbour_steps} is not usable: allowed are numbers >= 0")
        self.neighbour_steps = neighbour_steps

    def build(self, model: Autoencoder) -> None:
        if model.augmentation is None:
            raise ConfigurationError(
                f"phase={type(self).__name__} with augmentation=None is not usable: allowed is an augmentation"
            )
        model.require_categories()

    def check(self, model: Autoencoder, trainer: pl.Trainer) -> None:
        """The batch that names the categories has to show every class, and the encoder alone gets other categories."""
        super().check(model, trainer)
        data: Any = getattr(trainer, "datamodule", None)
        labels = getattr(data, "num_labelled", None)
        if not self.alone or not labels:
            return
        in_a_batch = getattr(data, "labelled_batch_size", labels)  # a data module from elsewhere has none
        if in_a_batch * trainer.world_size < labels:
            raise ConfigurationError(
                f"labelled_batch_size={in_a_batch} on {trainer.world_size} process(es) is not usable with "
                f"alone={self.alone} of {type(self).__name__}: one batch names the categories; allowed are batches "
                f"with all {labels} labelled images"
            )
        if model.warm_started:
            raise ConfigurationError(
                f"alone={self.alone} of {type(self).__name__} with init_from and labels is not usable: naming the "
                "categories would put those of the encoder alone into another order; allowed is 0"
            )

    def begin(self, model: Autoencoder, step: TrainStep) -> None:
        if step.number == self.alone > 0 and step.has("labelled"):
            self._name_categories(model, step)

    def sees(self, model: Autoencoder, number: int) -> tuple[str, ...]:
        return ("unlabelled", "neighbour" if number < self.neighbour_steps else "second")

    def loss(self, model: Autoencoder, encoded: Mapping[str, Encoded], step: TrainStep) -> Tensor:
        one, two = (full_precision(views.logits).softmax(1) for views in encoded.values())
        return -pair_information(one, two)

    @torch.no_grad()
    def _name_categories(self, model: Autoencoder, step: TrainStep) -> None:
        """Category ``k`` becomes the one that holds most of class ``k``, one to one."""
        labels = step.labels()
        images = torch.cat([step.images("labelled"), step.images("unlabelled")])
        q = full_precision(model.posterior.logits(model.encoder(images))[: len(labels)]).softmax(1)
        counts = q.new_zeros(max(model.num_classes or 0, int(labels.max()) + 1), q.shape[1]).index_add_(0, labels, q)
        model.reorder_categories(class_order(sum_over_processes(counts)))


def pair_information(one: Tensor, two: Tensor) -> Tensor:
    """``I(y; y')`` in nats of the categories of paired images (Ji et al., 2019, Invariant Information Clustering).

    With ``y ~ q(y|x)`` and ``y' ~ q(y'|x')`` the joint distribution is estimated over the global batch and made
    symmetric. At most ``log K``: reached when every pair falls into one category with certainty and all categories
    are equally frequent.

    Args:
        one: probabilities ``[B, K]`` of the first images.
        two: probabilities ``[B, K]`` of their partners.
    """
    joint = sum_over_processes(one.T @ two)
    joint = (joint + joint.T) / (2 * joint.sum())
    joint = joint.clamp_min(torch.finfo(joint.dtype).tiny ** 0.5)
    marginal = joint.sum(0)
    return (joint * (joint.log() - marginal.log() - marginal.log()[:, None])).sum()


def class_order(counts: Tensor) -> Tensor:
    """Which category each class gets: the best one-to-one assignment, then the categories that are left, ``[K]``.

    Args:
        counts: ``[num_classes, K]``, ``num_classes <= K``: how much of each class is in each category.
    """
    _, chosen = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    left = sorted(set(range(counts.shape[1])) - set(chosen.tolist()))
    return torch.tensor([*chosen.tolist(), *left])
