"""The exact likelihood of images under a prior with finitely many codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import exact_device, require_at_least
from pixelgan_lightning.callbacks.cluster_accuracy import current_mapping
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.metrics import ClusterAssignment, MeanWithError, mapped_accuracy

SPLITS = ("val", "test")


class MarginalLikelihood(pl.Callback):
    """Logs ``log p(x) = logsumexp_k(log p(k) + log p(x|k))``, exact, which takes K decoder passes an image.

    Logged as ``val/...`` or ``test/...``:

    - ``log_prob``: mean over the images in nats per image, ``log_prob_stderr``: standard error of that mean,
      ``log_prob_images``: number of images;
    - ``bits_per_dim``: ``-log_prob / (C H W ln 2)``;
    - ``bayes_cluster_accuracy`` and ``bayes_cluster_accuracy_majority``, tests with a :class:`ClusterAccuracy`
      callback: accuracy of the generative classifier ``argmax_k p(k|x)`` by Bayes' rule, on the same images, with the
      mappings that were made for the encoder's categories.

    Args:
        max_images: stop after that many images, in the order of the split (a share of them in each process); None for
            all.
        splits: which of "val" and "test".

    Raises:
        ConfigurationError: values out of range, or at setup a prior that cannot be enumerated.
    """

    def __init__(self, max_images: int | None = None, splits: Sequence[str] = ("test",)) -> None:
        if max_images is not None:
            require_at_least("max_images", max_images, 1)
        if isinstance(splits, str) or not splits or not set(splits) <= set(SPLITS):
            raise ConfigurationError(f"splits={splits!r} is not usable: allowed are lists of {' and '.join(SPLITS)}")
        self.max_images, self.splits = max_images, tuple(splits)
        self._bayes: ClusterAssignment | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if pl_module.prior.enumerate() is None:
            raise ConfigurationError(
                f"MarginalLikelihood with prior={type(pl_module.prior).__name__} is not usable: allowed are priors "
                "with finitely many codes, for example Categorical"
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._start(trainer, pl_module)
        if current_mapping(trainer) is not None:
            clusters = ClusterAssignment(pl_module.prior.num_categories, pl_module.num_classes)
            self._bayes = clusters.to(exact_device(pl_module))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if "val" in self.splits and not trainer.sanity_checking:
            self._update(pl_module, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if "test" in self.splits:
            self._update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if "val" in self.splits and not trainer.sanity_checking:
            self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if "test" in self.splits:
            self._log(pl_module, "test")
            self._log_bayes_classifier(trainer, pl_module)

    def _start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._log_prob = MeanWithError().to(exact_device(pl_module))
        self._bayes = None
        self._left = math.inf
        if self.max_images is not None:
            share, rest = divmod(self.max_images, trainer.world_size)
            self._left = share + (trainer.global_rank < rest)

    def _update(self, pl_module: Any, batch: dict[str, Tensor]) -> None:
        count = int(min(len(batch["image"]), self._left))
        if count == 0:
            return
        self._left -= count
        log_joint = pl_module.log_joint(batch["image"][:count]).to(self._log_prob.device).double()
        self._log_prob.update(log_joint.logsumexp(dim=1))
        if self._bayes is not None:
            self._bayes.update(log_joint, batch["label"][:count], batch["index"][:count])

    def _log(self, pl_module: Any, split: str) -> None:
        mean, error, count = self._log_prob.compute()
        values = {
            "log_prob": mean,
            "log_prob_stderr": error,
            "log_prob_images": float(count),
            "bits_per_dim": -mean / (math.prod(pl_module.image_shape) * math.log(2.0)),
        }
        pl_module.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)

    def _log_bayes_classifier(self, trainer: pl.Trainer, pl_module: Any) -> None:
        mapping = current_mapping(trainer)
        if self._bayes is None or mapping is None:
            return
        counts = self._bayes.compute().counts
        pl_module.log_dict(
            {
                "test/bayes_cluster_accuracy": mapped_accuracy(counts, mapping.best_example),
                "test/bayes_cluster_accuracy_majority": mapped_accuracy(counts, mapping.majority),
            },
            sync_dist=True,
        )
