"""The likelihood of images: exact under a prior with finitely many codes, importance-sampled with Gaussian codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pixelgan_lightning.callbacks.arguments import (
    exact_device,
    has_density,
    require_at_least,
    share_of_images,
)
from pixelgan_lightning.callbacks.cluster_accuracy import current_mapping
from pixelgan_lightning.callbacks.evaluation import EvaluationCallback
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.metrics import ClusterAssignment, MeanWithError, mapped_accuracy
from pixelgan_lightning.posteriors import GaussianPosterior
from pixelgan_lightning.random import keyed_generator


class MarginalLikelihood(EvaluationCallback):
    """Logs ``log p(x) = logsumexp_k(log p(k) + log p(x|k))``, exact, which takes K decoder passes an image.

    Where a prior has infinitely many codes and the posterior is Gaussian, ``log p(x)`` is importance-sampled
    (:meth:`~pixelgan_lightning.model.PixelGAN.importance_log_prob`): a lower bound in expectation, and so marked.

    Logged as ``val/...`` or ``test/...``:

    - ``log_prob``: mean over the images in nats per image, ``log_prob_stderr``: standard error of that mean,
      ``log_prob_images``: number of images; importance-sampled ``log_prob_lower`` in place of ``log_prob``;
    - ``bits_per_dim``: ``-log_prob / (C H W ln 2)``, ``bits_per_dim_stderr``; importance-sampled
      ``bits_per_dim_upper`` in place of ``bits_per_dim``, and ``importance_samples``, their number per image;
    - ``bayes_cluster_accuracy`` and ``bayes_cluster_accuracy_majority``, tests with a :class:`ClusterAccuracy`
      callback and one code per category: accuracy of the generative classifier ``argmax_k p(k|x)`` by Bayes' rule, on
      the same images, with the mappings that were made for the encoder's categories, and
      ``bayes_cluster_error_percent``; ``bayes_accuracy``, category = label, where :class:`ClusterAccuracy` logs
      ``accuracy``.

    Args:
        max_images: stop after that many images, in the order of the split (a share of them in each process); None for
            all.
        splits: which of "val" and "test".
        num_samples: decoder passes per image, where sampled.
        widen: factor on the posterior's standard deviation, where sampled.

    Raises:
        ConfigurationError: values out of range, or at setup a prior that can neither be enumerated nor sampled so.
    """

    def __init__(
        self,
        max_images: int | None = None,
        splits: Sequence[str] = ("test",),
        num_samples: int = 64,
        widen: float = 1.0,
    ) -> None:
        super().__init__(splits)
        if max_images is not None:
            require_at_least("max_images", max_images, 1)
        require_at_least("num_samples", num_samples, 1)
        if not 0 < widen < math.inf:
            raise ConfigurationError(f"widen={widen!r} is not usable: allowed are finite numbers > 0")
        self.max_images, self.num_samples, self.widen = max_images, num_samples, widen
        self._bayes: ClusterAssignment | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        prior = pl_module.prior
        self._exact = prior.enumerate() is not None
        if not self._exact and not (isinstance(pl_module.posterior, GaussianPosterior) and has_density(prior)):
            raise ConfigurationError(
                f"MarginalLikelihood with prior={type(prior).__name__} is not usable: allowed are priors with finitely "
                "many codes, for example Categorical, and those with a density together with a GaussianPosterior"
            )

    def start(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        self._log_prob = MeanWithError().to(exact_device(pl_module))
        self._bayes = None
        self._left = share_of_images(self.max_images, trainer)
        finite = pl_module.prior.enumerate()
        # Of several codes per category the posterior would have to be summed; none is that of a category by itself.
        one_code_each = finite is not None and len(finite[0]) == pl_module.prior.num_categories
        if split == "test" and one_code_each and current_mapping(trainer) is not None:
            clusters = ClusterAssignment(pl_module.prior.num_categories, pl_module.num_classes)
            self._bayes = clusters.to(exact_device(pl_module))

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor]) -> None:
        count = int(min(len(batch["image"]), self._left))
        if count == 0:
            return
        self._left -= count
        if not self._exact:
            # A key of its own for each batch: the same noise in all would understate the standard error.
            seed = keyed_generator("marginal likelihood", int(batch["index"][0])).initial_seed()
            self._log_prob.update(
                pl_module.importance_log_prob(batch["image"][:count], self.num_samples, seed, self.widen)
            )
            return
        log_joint = pl_module.log_joint(batch["image"][:count]).to(self._log_prob.device).double()
        self._log_prob.update(log_joint.logsumexp(dim=1))
        if self._bayes is not None:
            self._bayes.update(log_joint, batch["label"][:count], batch["index"][:count])

    def finish(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        mean, error, count = self._log_prob.compute()
        nats_per_bit_and_dim = math.prod(pl_module.image_shape) * math.log(2.0)
        lower, upper = ("", "") if self._exact else ("_lower", "_upper")
        values = {
            f"log_prob{lower}": mean,
            "log_prob_stderr": error,
            "log_prob_images": float(count),
            f"bits_per_dim{upper}": -mean / nats_per_bit_and_dim,
            "bits_per_dim_stderr": error / nats_per_bit_and_dim,
        }
        if not self._exact:
            values["importance_samples"] = float(self.num_samples)
        pl_module.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)
        self._log_bayes_classifier(trainer, pl_module)

    def _log_bayes_classifier(self, trainer: pl.Trainer, pl_module: Any) -> None:
        mapping = current_mapping(trainer)
        if self._bayes is None or mapping is None:
            return
        counts = self._bayes.compute().counts
        best = mapped_accuracy(counts, mapping.best_example)
        values = {
            "bayes_cluster_accuracy": best,
            "bayes_cluster_accuracy_majority": mapped_accuracy(counts, mapping.majority),
            "bayes_cluster_error_percent": 100.0 * (1.0 - best),
        }
        if mapping.hungarian is not None and getattr(getattr(trainer, "datamodule", None), "num_labelled", None):
            values["bayes_accuracy"] = mapped_accuracy(counts, torch.arange(len(counts)))
        pl_module.log_dict({f"test/{name}": value for name, value in values.items()}, sync_dist=True)
