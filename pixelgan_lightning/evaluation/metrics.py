"""What a categorical code is worth: cluster assignments, their agreement with the labels, and use of the code.

The metrics hold sums (and, for each category, the best example), so that a value over a split does not depend on how
the images were divided into batches or processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torchmetrics import Metric

from pixelgan_lightning.errors import ConfigurationError

UNKNOWN = -1
"""Stands for "no label": of an image, or of a category that nothing could be mapped to."""


class ClusterStatistics(NamedTuple):
    """Counts and best examples over a split, on the CPU.

    Attributes:
        counts: ``[K, C]`` int64, images whose most probable category is ``k`` and whose label is ``c``.
        best_margin: ``[K]`` float64, the largest margin of each category, ``-inf`` before any image was seen.
        best_index: ``[K]`` int64, index of the image that has it, -1 before any image was seen.
        best_label: ``[K]`` int64, label of that image, -1 before any image was seen.
    """

    counts: Tensor
    best_margin: Tensor
    best_index: Tensor
    best_label: Tensor


@dataclass(frozen=True)
class ClusterMapping:
    """A label for every category, ``[K]`` int64 on the CPU, by three rules.

    Attributes:
        best_example: the label of the image with the highest ``q(y=k|x)`` (Makhzani et al. 2015, Adversarial
            Autoencoders). It reads K labels. -1 only when there was no labelled image at all.
        majority: the most frequent label among the images of the category, the lowest label on ties. It reads all
            labels. -1 for a category without images.
        hungarian: the one-to-one mapping with the most correct images; ``None`` unless K equals the number of classes.
    """

    best_example: Tensor
    majority: Tensor
    hungarian: Tensor | None


def category_margins(logits: Tensor) -> Tensor:
    """``logit_k - logsumexp`` of the other logits, ``[B, K]`` float64.

    It grows with ``q(y=k|x)`` and still ranks images whose float32 softmax is saturated at 1. NaN becomes ``-inf``.
    """
    logits = logits.double()
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].masked_fill(itself, -torch.inf).logsumexp(dim=-1)
    margins = logits - others
    return margins.masked_fill(margins.isnan(), -torch.inf)


def _best_examples(candidates: Tensor) -> Tensor:
    """The best of the candidates ``[N, K, 3]`` of (margin, index, label) for each category, ``[K, 3]``.

    The largest margin wins, then the lowest index. A top-level function, as it is the reduction over processes too.
    """
    margin, index = candidates[..., 0], candidates[..., 1]
    ties = margin == margin.amax(dim=0)
    winner = index.masked_fill(~ties, torch.inf).argmin(dim=0)
    return candidates.gather(0, winner[None, :, None].expand(1, -1, 3))[0]


class ClusterAssignment(Metric):
    """Counts category against label, and remembers the best example of every category.

    Args:
        num_categories: K, at least 2.
        num_classes: C, at least 1.

    Raises:
        ConfigurationError: fewer categories or classes than that.
    """

    full_state_update = False
    is_differentiable = False

    counts: Tensor
    best: Tensor

    def __init__(self, num_categories: int, num_classes: int) -> None:
        super().__init__()
        if num_categories < 2:
            raise ConfigurationError(f"num_categories={num_categories!r} is not usable: allowed are integers >= 2")
        if num_classes < 1:
            raise ConfigurationError(f"num_classes={num_classes!r} is not usable: allowed are integers >= 1")
        self.num_categories, self.num_classes = num_categories, num_classes
        self.add_state("counts", torch.zeros(num_categories, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        # One float64 table (margin, index, label) keeps the three together in every reduction; float64 holds
        # integers exactly up to 2**53. The starting row loses every tie.
        nothing = torch.tensor([-torch.inf, torch.inf, UNKNOWN], dtype=torch.float64)
        self.add_state("best", nothing.repeat(num_categories, 1), dist_reduce_fx=_best_examples)

    def update(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``[B, K]`` unnormalised ``log q(y|x)``.
            labels: ``[B]`` int64 in ``0..C-1``; images labelled -1 (unknown) are left out.
            index: ``[B]`` int64, number of the image in its file; it decides ties.
        """
        known = labels != UNKNOWN
        logits, labels, index = (values[known].to(self.device) for values in (logits, labels, index))
        if labels.numel() == 0:
            return
        where = (logits.argmax(dim=1), labels)
        self.counts = self.counts.index_put(where, torch.ones_like(labels), accumulate=True)
        margins = category_margins(logits)
        example = torch.stack([index, labels], dim=-1).double()[:, None, :].expand(-1, self.num_categories, -1)
        candidates = torch.cat([margins[..., None], example], dim=-1)
        self.best = _best_examples(torch.cat([self.best[None], candidates]))

    def compute(self) -> ClusterStatistics:
        """The statistics over all batches and processes."""
        margin, index, label = self.best.cpu().unbind(dim=-1)
        index = index.masked_fill(index.isinf(), -1)
        return ClusterStatistics(self.counts.cpu(), margin, index.long(), label.long())

    def mapping(self) -> ClusterMapping:
        """The mappings fitted to all batches and processes."""
        return fit_mapping(self.compute())


def fit_mapping(statistics: ClusterStatistics) -> ClusterMapping:
    """The label of every category by best example, majority and, where K = C, one-to-one assignment."""
    counts = statistics.counts.numpy()
    majority = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), UNKNOWN)
    hungarian = None
    if counts.shape[0] == counts.shape[1]:
        _, columns = linear_sum_assignment(counts, maximize=True)
        hungarian = torch.as_tensor(columns)
    return ClusterMapping(statistics.best_label, torch.as_tensor(majority), hungarian)


def confusion(counts: Tensor, mapping: Tensor) -> Tensor:
    """Images by true label (rows) and predicted label (columns), ``[C, C]`` int64.

    Args:
        counts: ``[K, C]``.
        mapping: ``[K]`` label of each category. Images in a category mapped to -1 have no predicted label and are left
            out, so that the sum may be smaller than that of ``counts``.
    """
    mapped = mapping != UNKNOWN
    matrix = torch.zeros(counts.shape[1], counts.shape[1], dtype=counts.dtype)
    return matrix.index_add(1, mapping[mapped], counts[mapped].T.contiguous())


def mapped_accuracy(counts: Tensor, mapping: Tensor) -> float:
    """Share of images whose category is mapped to their label, in [0, 1].

    Args:
        counts: ``[K, C]``.
        mapping: ``[K]`` label of each category; images in a category mapped to -1 are wrong.

    Returns:
        NaN when ``counts`` holds no image.
    """
    total = int(counts.sum())
    return int(confusion(counts, mapping).diagonal().sum()) / total if total else float("nan")


def _expand(counts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Labels and categories, one entry an image, of a count matrix ``[K, C]``."""
    table = counts.cpu().numpy()
    categories, labels = np.indices(table.shape)
    return labels.ravel().repeat(table.ravel()), categories.ravel().repeat(table.ravel())


def nmi(counts: Tensor) -> float:
    """Normalised mutual information of category and label (arithmetic mean), in [0, 1]; NaN without images."""
    return float(normalized_mutual_info_score(*_expand(counts))) if counts.any() else float("nan")


def ari(counts: Tensor) -> float:
    """Adjusted Rand index of category and label, at most 1 and 0 by chance; NaN without images."""
    return float(adjusted_rand_score(*_expand(counts))) if counts.any() else float("nan")


class CodeStatistics(NamedTuple):
    """Use of a categorical code over a split, on the CPU; entropies and divergences in nats.

    Attributes:
        aggregate: ``[K]`` float64, ``q(y)``, the mean of ``q(y|x)``.
        code_entropy: float64 scalar, mean entropy of ``q(y|x)``; 0 for one-hot codes.
        hits: ``[K]`` int64, images whose most probable category is ``k``.
    """

    aggregate: Tensor
    code_entropy: Tensor
    hits: Tensor

    @property
    def categories_used(self) -> int:
        """Number of categories that are the most probable one of at least one image."""
        return int((self.hits > 0).sum())

    @property
    def aggregate_entropy(self) -> float:
        """Entropy of ``q(y)``; log K when all categories are used equally."""
        return float(torch.special.entr(self.aggregate).sum())

    @property
    def mutual_information(self) -> float:
        """``I_q(y;x) = H(q(y)) - E[H(q(y|x))]``, exact over the images seen."""
        return self.aggregate_entropy - float(self.code_entropy)

    def marginal_kl(self, log_prior: Tensor) -> float:
        """``KL(q(y)||p(y))`` for prior weights ``log p(y)``, ``[K]``."""
        return -float((self.aggregate * log_prior.to(self.aggregate)).sum()) - self.aggregate_entropy


class CodeUsage(Metric):
    """Sums for the entropies of a categorical code with K categories; all images count, labelled or not."""

    full_state_update = False
    is_differentiable = False

    sum_q: Tensor
    sum_entropy: Tensor
    hits: Tensor

    def __init__(self, num_categories: int) -> None:
        super().__init__()
        if num_categories < 2:
            raise ConfigurationError(f"num_categories={num_categories!r} is not usable: allowed are integers >= 2")
        self.num_categories = num_categories
        self.add_state("sum_q", torch.zeros(num_categories, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sum_entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("hits", torch.zeros(num_categories, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add a batch of unnormalised ``log q(y|x)``, ``[B, K]``."""
        logits = logits.to(self.device)
        q = logits.double().softmax(dim=1)
        self.sum_q = self.sum_q + q.sum(dim=0)
        self.sum_entropy = self.sum_entropy + torch.special.entr(q).sum()
        winners = logits.argmax(dim=1)
        self.hits = self.hits.index_put((winners,), torch.ones_like(winners), accumulate=True)

    def compute(self) -> CodeStatistics:
        """The statistics over all batches and processes; NaN without images."""
        count = self.hits.sum()
        return CodeStatistics((self.sum_q / count).cpu(), (self.sum_entropy / count).cpu(), self.hits.cpu())


class MeanEstimate(NamedTuple):
    """Mean of ``number`` values and the standard error of that mean (NaN for fewer than two values)."""

    mean: float
    standard_error: float
    number: int


class MeanWithError(Metric):
    """Mean of per-image values with its standard error, from float64 sums."""

    full_state_update = False
    is_differentiable = False

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values, ``[B]``."""
        values = values.to(self.device).double()
        self.total = self.total + values.sum()
        self.squares = self.squares + values.square().sum()
        self.count = self.count + values.numel()

    def compute(self) -> MeanEstimate:
        """The estimate over all batches and processes; NaN without values."""
        count = int(self.count)
        if count == 0:
            return MeanEstimate(float("nan"), float("nan"), 0)
        mean = float(self.total) / count
        spread = max(float(self.squares) - count * mean**2, 0.0)  # rounding could make it negative
        error = (spread / (count - 1) / count) ** 0.5 if count > 1 else float("nan")
        return MeanEstimate(mean, error, count)
