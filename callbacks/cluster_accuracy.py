"""How well the categories of the code agree with the labels."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import exact_device, is_due, require_at_least
from pixelgan_lightning.callbacks.evaluation import EvaluationCallback
from pixelgan_lightning.callbacks.figure_logging import log_figures
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.category_classes import CategoryClasses, class_names
from pixelgan_lightning.evaluation.metrics import (
    ClusterAssignment,
    ClusterMapping,
    CodeUsage,
    ari,
    confusion,
    mapped_accuracy,
    nmi,
)


def current_mapping(trainer: pl.Trainer) -> ClusterMapping | None:
    """The mapping that the trainer's :class:`ClusterAccuracy` callback fitted last, if there is one."""
    return next((c.mapping for c in trainer.callbacks if isinstance(c, ClusterAccuracy)), None)  # type: ignore[attr-defined]


def current_classes(trainer: pl.Trainer) -> CategoryClasses | None:
    """What each category stands for, by the trainer's :class:`ClusterAccuracy` callback, if there is one that knows."""
    callback = next((c for c in trainer.callbacks if isinstance(c, ClusterAccuracy)), None)  # type: ignore[attr-defined]
    return None if callback is None else callback.classes(trainer)


def _named(pl_module: Any) -> bool:
    """Whether labels have given the categories their places, which some phases let them do when they were alone."""
    alone = [phase.alone for phase in getattr(pl_module, "phases", {}).values() if phase.finds_categories]
    return not any(alone) or pl_module.global_step > max(alone)


class ClusterAccuracy(EvaluationCallback):
    """Maps the K categories of the code to labels and counts how often the label is right.

    The mapping is made on validation data, the test error is then counted with it (the protocol of Makhzani et al.
    2015, Adversarial Autoencoders): the validation image with the highest ``q(y=k|x)`` gives its label to the whole
    cluster k. In validation the mapping is scored on the images it was made on, which flatters it; in a test it is
    made anew on the full validation split, whatever ``limit_val_batches`` says, before the first test batch.

    Logged as ``val/...`` and ``test/...``:

    - ``cluster_accuracy``: by best example, ``cluster_accuracy_majority``: by majority vote (a category without
      validation images is wrong), ``cluster_accuracy_hungarian``: one-to-one, only where K is the number of classes;
    - ``accuracy``: category = label without any mapping, only where K is the number of classes and the data module
      gives labels for training;
    - ``nmi``, ``ari``: normalised mutual information and adjusted Rand index, no mapping;
    - ``categories_used``: categories that are the most probable one of at least one image;
    - ``code_entropy``: mean entropy of ``q(y|x)``, ``aggregate_entropy``: entropy of its mean ``q(y)``,
      ``mutual_information``: their difference, ``marginal_kl``: ``KL(q(y)||p(y))``, all in nats;
    - with ``views``: ``cluster_accuracy_views``, ``cluster_accuracy_majority_views`` and ``accuracy_views``, the same
      mappings of the most probable category by the mean of ``q(y|x)`` over views;
    - tests only: ``cluster_error_percent`` = 100 (1 - ``cluster_accuracy``), and ``mapping_labels``, the number of
      validation labels the mappings were made with (majority and Hungarian read all, best example reads K of them).

    Where the data have no classes, only how the code is used is logged: categories, entropies, information.

    A confusion matrix (best example) is drawn as figure ``confusion`` (``test_confusion``).

    Args:
        every_n_epochs: draw the confusion matrix after the validations of every n-th epoch; numbers are logged always.
        views: of how many views of each image ``q(y|x)`` is averaged beside that of the image alone; 0 for none.

    Attributes:
        mapping: the mapping fitted last, None before.

    Raises:
        ConfigurationError: at setup, for a code without categories, or a test without a data module.
    """

    mapping: ClusterMapping | None

    def __init__(self, every_n_epochs: int = 1, views: int = 0) -> None:
        super().__init__()
        require_at_least("every_n_epochs", every_n_epochs, 1)
        require_at_least("views", views, 0)
        self.views = views
        self.every_n_epochs = every_n_epochs
        self.mapping = None

    def state_dict(self) -> dict[str, Any]:
        """The mapping, which labels the pictures until the next validation."""
        return {"mapping": None if self.mapping is None else vars(self.mapping).copy()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mapping = None if state_dict["mapping"] is None else ClusterMapping(**state_dict["mapping"])

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        num_categories, num_classes = pl_module.prior.num_categories, pl_module.num_classes
        if num_categories is None:
            raise ConfigurationError(
                f"ClusterAccuracy with prior={type(pl_module.prior).__name__} is not usable: allowed are priors with "
                "categories, for example Categorical"
            )
        self._num_classes: int | None = num_classes
        self._usage = CodeUsage(num_categories)
        self._clusters = self._by_views = None
        if num_classes is None:
            return  # no label says what a category stands for
        if stage == "test" and getattr(trainer, "datamodule", None) is None:
            raise ConfigurationError(
                "ClusterAccuracy with datamodule=None is not usable in a test: allowed is a data module, whose "
                "validation images give the mapping"
            )
        if self.views and pl_module.augmentation is None:
            raise ConfigurationError(
                f"ClusterAccuracy with views={self.views} and augmentation=None is not usable: allowed is an "
                "augmentation"
            )
        self._clusters = ClusterAssignment(num_categories, num_classes)
        self._by_views = ClusterAssignment(num_categories, num_classes) if self.views else None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._named_before = _named(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if _named(pl_module) and not self._named_before:  # the categories have changed places
            self.mapping = None

    def classes(self, trainer: pl.Trainer) -> CategoryClasses | None:
        """The class of each category: itself where labels are trained on, else by best example; None if not known."""
        if self._categories_are_classes(trainer) and _named(trainer.lightning_module):
            mapping = torch.arange(self._usage.num_categories)
        elif self.mapping is not None:
            mapping = self.mapping.best_example
        else:
            return None
        return CategoryClasses.from_mapping(
            mapping, class_names(getattr(trainer, "datamodule", None), self._num_classes)
        )

    def _categories_are_classes(self, trainer: pl.Trainer) -> bool:
        """Whether labels are trained on, and there is one category for each class."""
        with_labels = getattr(getattr(trainer, "datamodule", None), "num_labelled", None)
        return bool(with_labels) and self._usage.num_categories == self._num_classes

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What the categories stand for, for tables and pictures of other images."""
        classes = self.classes(trainer)
        if classes is not None:
            checkpoint["pixelgan_lightning_classes"] = classes.plain()

    # Other callbacks read the mapping from their `start` on.
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._clusters is not None:
            self.mapping, self._mapping_labels = self._fit_on_validation_data(trainer, pl_module, self._clusters)

    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        for counts in (self._clusters, self._by_views, self._usage):
            if counts is not None:
                counts.to(exact_device(pl_module)).reset()

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        logits = pl_module.category_logits(batch["image"])
        self._usage.update(logits)
        if self._clusters is not None:
            self._clusters.update(logits, batch["label"], batch["index"])
        if self._by_views is not None:
            self._by_views.update(pl_module.category_logits(batch["image"], self.views), batch["label"], batch["index"])

    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        self._log_usage(pl_module, split)
        if self._clusters is None:
            return
        if split == "val":
            self.mapping = self._clusters.mapping()
        assert self.mapping is not None
        counts = self._clusters.compute().counts
        accuracy = self._log_agreement(trainer, pl_module, split, counts, self.mapping)
        if split == "test":
            pl_module.log("test/cluster_error_percent", 100.0 * (1.0 - accuracy), sync_dist=True)
            pl_module.log("test/mapping_labels", float(self._mapping_labels), sync_dist=True)
        if is_due(trainer, self.every_n_epochs) and trainer.is_global_zero:
            names = class_names(getattr(trainer, "datamodule", None), self._num_classes)
            figure = figures.confusion_matrix(confusion(counts, self.mapping.best_example), names=names)
            name = "confusion" if split == "val" else "test_confusion"
            log_figures(trainer, {name: figure}, pl_module.global_step)

    @torch.no_grad()
    def _fit_on_validation_data(
        self, trainer: pl.Trainer, pl_module: Any, like: ClusterAssignment
    ) -> tuple[ClusterMapping, int]:
        """The mapping by the whole validation split, and the number of labels in it.

        The loader is the data module's own, which gives each process its share.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        data.setup("validate")
        clusters = ClusterAssignment(like.num_categories, like.num_classes).to(exact_device(pl_module))
        for batch in data.val_dataloader():
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            clusters.update(pl_module.category_logits(batch["image"]), batch["label"], batch["index"])
        return clusters.mapping(), int(clusters.compute().counts.sum())

    def _log_usage(self, pl_module: Any, split: str) -> None:
        usage = self._usage.compute()
        values = {
            "categories_used": float(usage.categories_used),
            "code_entropy": float(usage.code_entropy),
            "aggregate_entropy": usage.aggregate_entropy,
            "mutual_information": usage.mutual_information,
        }
        finite = pl_module.prior.enumerate()
        if finite is not None and len(finite[1]) == pl_module.prior.num_categories:  # one code for each category
            values["marginal_kl"] = usage.marginal_kl(finite[1])
        # The values are the same on all processes already; sync_dist only keeps Lightning from warning.
        pl_module.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)

    def _log_agreement(
        self, trainer: pl.Trainer, pl_module: Any, split: str, counts: Tensor, mapping: ClusterMapping
    ) -> float:
        """Log how categories and labels agree; returns the accuracy by best example."""
        accuracy = mapped_accuracy(counts, mapping.best_example)
        values = {
            "cluster_accuracy_majority": mapped_accuracy(counts, mapping.majority),
            "nmi": nmi(counts),
            "ari": ari(counts),
        }
        if mapping.hungarian is not None:
            values["cluster_accuracy_hungarian"] = mapped_accuracy(counts, mapping.hungarian)
        itself = torch.arange(len(counts)) if self._categories_are_classes(trainer) else None
        if itself is not None:
            values["accuracy"] = mapped_accuracy(counts, itself)
        if self._by_views is not None:
            by_views = self._by_views.compute().counts
            values["cluster_accuracy_views"] = mapped_accuracy(by_views, mapping.best_example)
            values["cluster_accuracy_majority_views"] = mapped_accuracy(by_views, mapping.majority)
            if itself is not None:
                values["accuracy_views"] = mapped_accuracy(by_views, itself)
        pl_module.log(f"{split}/cluster_accuracy", accuracy, prog_bar=True, sync_dist=True)
        pl_module.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)
        return accuracy
