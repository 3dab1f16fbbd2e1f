"""Cluster statistics against cases worked out by hand, other libraries and identities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import mode
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torch.testing import assert_close
from torchmetrics import Metric

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.metrics import (
    ClusterAssignment,
    ClusterStatistics,
    CodeUsage,
    MeanWithError,
    ari,
    category_margins,
    confusion,
    fit_mapping,
    mapped_accuracy,
    nmi,
)

K, C = 6, 4


def random_batch(n: int = 300, seed: int = 0, k: int = K, c: int = C) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator)
    labels = torch.randint(-1, c, (n,), generator=generator)  # some unknown
    return logits, labels, torch.randperm(n, generator=generator)


def assigned(logits: Tensor, labels: Tensor, index: Tensor, batch: int = 64, c: int = C) -> ClusterAssignment:
    metric = ClusterAssignment(logits.shape[1], c)
    for part in zip(logits.split(batch), labels.split(batch), index.split(batch), strict=True):
        metric.update(*part)
    return metric


def assert_same(one: ClusterStatistics, other: ClusterStatistics) -> None:
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, rtol=0, atol=0)


def statistics(counts: list[list[int]]) -> ClusterStatistics:
    k = len(counts)
    none = torch.full((k,), -1)
    return ClusterStatistics(torch.tensor(counts), none.double(), none, none)


class TestMapping:
    def test_case_worked_out_by_hand(self) -> None:
        # Image:                0      1      2      3      4      5
        # label:                0      0      1      1      2      2
        # category:             0      0      0      1      1      0        category 2 is nobody's
        logits = torch.tensor(
            [[1.0, 0, 0], [2.0, 0, 0], [9.0, 0, -9], [0, 3.0, 0], [0, 4.0, 1.0], [1.0, 0, 0.5]],
        )
        labels = torch.tensor([0, 0, 1, 1, 2, 2])
        metric = assigned(logits, labels, torch.arange(6) + 100, batch=4, c=3)
        result = metric.compute()
        assert result.counts.tolist() == [[2, 1, 1], [0, 1, 1], [0, 0, 0]]
        # Highest q(y=k|x): image 2 for k=0; for k=1 image 4 has 4 - log(1 + e) = 2.69, image 3 has 3 - log 2 = 2.31;
        # for k=2 image 5 has 0.5 - log(1 + e) = -0.81, image 0 only -log(1 + e) = -1.31.
        assert result.best_index.tolist() == [102, 104, 105]
        expected = torch.tensor([9 - math.log1p(math.exp(-9)), 4 - math.log1p(math.e), 0.5 - math.log1p(math.e)])
        assert_close(result.best_margin[1:], expected[1:].double(), rtol=0, atol=1e-6)
        mapping = metric.mapping()
        assert mapping.best_example.tolist() == [1, 2, 2]
        assert mapping.majority.tolist() == [0, 1, -1]  # the tie of category 1 goes to the lower label
        assert mapping.hungarian is not None
        assert mapped_accuracy(result.counts, mapping.best_example) == 2 / 6
        assert mapped_accuracy(result.counts, mapping.majority) == 3 / 6
        assert mapped_accuracy(result.counts, mapping.hungarian) == 3 / 6
        assert confusion(result.counts, mapping.best_example).tolist() == [[0, 2, 0], [0, 1, 1], [0, 1, 1]]

    def test_images_in_an_unmapped_category_are_wrong(self) -> None:
        counts = torch.tensor([[3, 0], [0, 4], [1, 2]])
        mapping = torch.tensor([0, 1, -1])
        assert mapped_accuracy(counts, mapping) == 7 / 10
        assert confusion(counts, mapping).tolist() == [[3, 0], [0, 4]]

    def test_majority_is_that_of_scipy(self) -> None:
        logits, labels, index = random_batch()
        mapping = assigned(logits, labels, index).mapping()
        category = logits.argmax(1)
        for k in range(K):
            assert mapping.majority[k] == mode(labels[(category == k) & (labels >= 0)].numpy()).mode

    def test_best_example_is_that_of_a_loop(self) -> None:
        logits, labels, index = random_batch()
        mapping = assigned(logits, labels, index).mapping()
        q = logits.double().softmax(1)
        for k in range(K):
            best = max((i for i in range(len(q)) if labels[i] >= 0), key=lambda i: float(q[i, k]))
            assert mapping.best_example[k] == labels[best]

    @pytest.mark.parametrize("seed", range(5))
    def test_hungarian_is_the_best_permutation(self, seed: int) -> None:
        counts = torch.randint(0, 50, (4, 4), generator=torch.Generator().manual_seed(seed))
        hungarian = fit_mapping(statistics(counts.tolist())).hungarian
        assert hungarian is not None
        assert sorted(hungarian.tolist()) == [0, 1, 2, 3]
        best = max(sum(int(counts[k, p[k]]) for k in range(4)) for p in itertools.permutations(range(4)))
        assert mapped_accuracy(counts, hungarian) == best / int(counts.sum())

    def test_no_hungarian_when_categories_and_classes_differ_in_number(self) -> None:
        assert fit_mapping(statistics([[1, 2], [3, 4], [5, 6]])).hungarian is None

    def test_accuracy_without_images_is_nan(self) -> None:
        counts = torch.zeros(2, 2, dtype=torch.int64)
        assert math.isnan(mapped_accuracy(counts, torch.tensor([0, 1])))
        assert math.isnan(nmi(counts))
        assert math.isnan(ari(counts))


class TestBestExample:
    def test_saturated_softmax_is_still_ranked(self) -> None:
        logits = torch.tensor([[200.0, 0, 0], [300.0, 0, 0], [250.0, 0, 0]])
        assert logits.softmax(1)[:, 0].tolist() == [1.0, 1.0, 1.0]
        metric = assigned(logits, torch.tensor([0, 1, 2]), torch.arange(3))
        assert metric.compute().best_index[0] == 1
        assert metric.mapping().best_example[0] == 1

    def test_margins_are_log_odds(self) -> None:
        logits, _, _ = random_batch()
        q = logits.double().softmax(1)
        assert_close(category_margins(logits), q.logit(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_ties_go_to_the_lowest_index(self, batch: int) -> None:
        logits = torch.tensor([[5.0, 0.0]]).repeat(5, 1)
        result = assigned(logits, torch.arange(5), torch.tensor([7, 4, 2, 9, 3]), batch, c=5).compute()
        assert result.best_index.tolist() == [2, 2]
        assert result.best_label.tolist() == [2, 2]

    def test_unknown_labels_are_left_out(self) -> None:
        logits = torch.tensor([[9.0, 0.0], [1.0, 0.0]])
        metric = assigned(logits, torch.tensor([-1, 1]), torch.arange(2), c=2)
        assert metric.compute().counts.tolist() == [[0, 1], [0, 0]]
        assert metric.mapping().best_example.tolist() == [1, 1]

    def test_only_unknown_labels_give_no_mapping(self) -> None:
        metric = assigned(torch.zeros(2, 3), torch.tensor([-1, -1]), torch.arange(2))
        assert metric.mapping().best_example.tolist() == [-1, -1, -1]
        assert metric.compute().best_index.tolist() == [-1, -1, -1]

    def test_not_a_number_never_wins(self) -> None:
        logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])
        assert assigned(logits, torch.tensor([0, 1]), torch.arange(2)).compute().best_index.tolist() == [1, 1]


class TestAgreement:
    def test_nmi_and_ari_are_those_of_the_raw_vectors(self) -> None:
        logits, labels, index = random_batch()
        counts = assigned(logits, labels, index).compute().counts
        known = labels >= 0
        vectors = labels[known].numpy(), logits.argmax(1)[known].numpy()
        assert nmi(counts) == pytest.approx(normalized_mutual_info_score(*vectors), abs=1e-12)
        assert ari(counts) == pytest.approx(adjusted_rand_score(*vectors), abs=1e-12)

    def test_perfect_clusters(self) -> None:
        counts = torch.tensor([[0, 5, 0], [7, 0, 0], [0, 0, 3]])
        assert nmi(counts) == pytest.approx(1.0)
        assert ari(counts) == pytest.approx(1.0)


class TestCodeUsage:
    def test_decomposition_of_the_mean_divergence_from_the_prior(self) -> None:
        """``mean KL(q(y|x)||p(y)) = I_q(y;x) + KL(q(y)||p(y))``, with a prior that is not uniform."""
        logits = random_batch()[0].double()
        log_prior = torch.randn(K, generator=torch.Generator().manual_seed(5), dtype=torch.float64).log_softmax(0)
        usage = CodeUsage(K)
        for part in logits.split(70):
            usage.update(part)
        result = usage.compute()
        log_q = logits.log_softmax(1)
        mean_divergence = (log_q.exp() * (log_q - log_prior)).sum(1).mean()
        total = result.mutual_information + result.marginal_kl(log_prior)
        assert total == pytest.approx(float(mean_divergence), abs=1e-12)
        assert result.mutual_information > 0
        assert result.marginal_kl(log_prior) > 0

    def test_balanced_one_hot_codes(self) -> None:
        usage = CodeUsage(4)
        usage.update(1000 * torch.eye(4))
        result = usage.compute()
        assert result.categories_used == 4
        assert float(result.code_entropy) == 0.0
        assert result.mutual_information == pytest.approx(math.log(4))
        assert result.marginal_kl(torch.full((4,), -math.log(4))) == pytest.approx(0.0, abs=1e-7)

    def test_collapsed_code_carries_nothing(self) -> None:
        usage = CodeUsage(4)
        usage.update(torch.tensor([[2.0, 1.0, 0.0, 0.0]]).repeat(9, 1))
        result = usage.compute()
        assert result.categories_used == 1
        assert result.mutual_information == pytest.approx(0.0, abs=1e-12)


class TestMeanWithError:
    def test_mean_and_standard_error(self) -> None:
        values = torch.randn(101, dtype=torch.float64) * 3 - 80
        metric = MeanWithError()
        for part in values.split(30):
            metric.update(part)
        mean, error, count = metric.compute()
        assert (mean, count) == (pytest.approx(float(values.mean())), 101)
        assert error == pytest.approx(float(values.std()) / math.sqrt(101))

    def test_too_few_values(self) -> None:
        metric = MeanWithError()
        metric.update(torch.empty(0))
        assert math.isnan(metric.compute().mean)
        metric.update(torch.tensor([2.0]))
        assert metric.compute().mean == 2.0
        assert math.isnan(metric.compute().standard_error)


def _shard(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A process's share of images with ties between the shares: every logit row occurs in both."""
    logits, labels, index = random_batch()
    logits[150:] = logits[:150]
    return logits[rank::2], labels[rank::2], index[rank::2]


def _whole() -> tuple[Tensor, Tensor, Tensor]:
    first, second = _shard(0), _shard(1)
    return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))  # type: ignore[return-value]


def _as_if_distributed(metrics: Sequence[Metric]) -> None:
    """Let torchmetrics believe that each metric lives in a process of its own, and gather the others' states."""
    states = [{name: getattr(metric, name) for name in metric._defaults} for metric in metrics]

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        name = next(name for own in states for name, value in own.items() if value is state)
        return [own[name] for own in states]

    for metric in metrics:
        metric.distributed_available_fn = lambda: True
        metric.dist_sync_fn = gather


class TestDistribution:
    def test_merged_states_equal_one_metric(self) -> None:
        metric = assigned(*_shard(0))
        metric.merge_state(assigned(*_shard(1)))
        assert_same(metric.compute(), assigned(*_whole()).compute())

    def test_merging_an_empty_metric_changes_nothing(self) -> None:
        metric = assigned(*_shard(0))
        metric.merge_state(ClusterAssignment(K, C))
        assert_same(metric.compute(), assigned(*_shard(0)).compute())

    def test_order_and_size_of_batches_do_not_matter(self) -> None:
        logits, labels, index = _whole()
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
        assert_same(
            assigned(logits, labels, index, batch=300).compute(),
            assigned(logits[order], labels[order], index[order], batch=7).compute(),
        )

    def test_two_processes_equal_one(self) -> None:
        clusters = [assigned(*_shard(rank)) for rank in range(2)]
        usages = [CodeUsage(K), CodeUsage(K)]
        for rank, usage in enumerate(usages):
            usage.update(_shard(rank)[0])
        _as_if_distributed(clusters)
        _as_if_distributed(usages)
        whole = CodeUsage(K)
        whole.update(_whole()[0])
        for cluster, usage in zip(clusters, usages, strict=True):
            assert_same(cluster.compute(), assigned(*_whole()).compute())
            for ours, theirs in zip(usage.compute(), whole.compute(), strict=True):
                assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("k", "c"), [(1, 10), (10, 0)])
def test_impossible_numbers_are_refused(k: int, c: int) -> None:
    with pytest.raises(ConfigurationError, match="not usable: allowed are integers >= "):
        ClusterAssignment(k, c)
