"""What the numbers of a test are called, how they are written, and the sentence that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

STDERR = "_stderr"


@dataclass(frozen=True)
class Quantity:
    """A number of a test.

    Attributes:
        group: heading it stands under.
        words: what it is.
        percent: whether it is a share, to be written in per cent.
        better: 1 where more is better, -1 where less is, 0 where it depends.
    """

    group: str
    words: str
    percent: bool = False
    better: int = 0


GROUPS = ("Categories and labels", "Likelihood", "Code", "Others")

_SHARE = "Images in a category of their class"
QUANTITIES: Mapping[str, Quantity] = {
    "accuracy": Quantity(GROUPS[0], "Images given their class", True, 1),
    "accuracy_views": Quantity(GROUPS[0], "Images given their class, by the mean over views", True, 1),
    "cluster_accuracy": Quantity(GROUPS[0], f"{_SHARE}; each takes the class of its surest validation image", True, 1),
    "cluster_accuracy_views": Quantity(GROUPS[0], f"{_SHARE}, by the mean over views", True, 1),
    "cluster_accuracy_majority": Quantity(GROUPS[0], f"{_SHARE}, by majority of its validation images", True, 1),
    "cluster_accuracy_majority_views": Quantity(GROUPS[0], f"{_SHARE}, by majority and the mean over views", True, 1),
    "cluster_accuracy_hungarian": Quantity(GROUPS[0], f"{_SHARE}, one category for each class", True, 1),
    "nmi": Quantity(GROUPS[0], "Normalised mutual information with the labels", False, 1),
    "ari": Quantity(GROUPS[0], "Adjusted Rand index with the labels", False, 1),
    "bayes_accuracy": Quantity(GROUPS[0], "Images given their class by Bayes' rule, p(k|x)", True, 1),
    "bayes_cluster_accuracy": Quantity(GROUPS[0], f"{_SHARE} by Bayes' rule, p(k|x)", True, 1),
    "bayes_cluster_accuracy_majority": Quantity(GROUPS[0], f"{_SHARE} by Bayes' rule and majority", True, 1),
    "mapping_labels": Quantity(GROUPS[0], "Validation labels that named the categories"),
    "bits_per_dim": Quantity(GROUPS[1], "Exact likelihood, bits per dimension", False, -1),
    "bits_per_dim_upper": Quantity(GROUPS[1], "Bound of the likelihood, at most so many bits per dimension", False, -1),
    "log_prob": Quantity(GROUPS[1], "log p(x), nats per image", False, 1),
    "log_prob_lower": Quantity(GROUPS[1], "log p(x), at least so many nats per image", False, 1),
    "log_prob_images": Quantity(GROUPS[1], "Images that the likelihood was measured on"),
    "importance_samples": Quantity(GROUPS[1], "Importance samples for each image"),
    "reconstruction": Quantity(GROUPS[1], "-log p(x|z) given the code, nats per image", False, -1),
    "reconstruction_one_hot": Quantity(GROUPS[1], "-log p(x|z) given the category alone, nats per image", False, -1),
    "categories_used": Quantity(GROUPS[2], "Categories used"),
    "code_entropy": Quantity(GROUPS[2], "Entropy of q(y|x), nats: 0 where the model is sure", False, -1),
    "aggregate_entropy": Quantity(GROUPS[2], "Entropy of q(y), nats: log K where all are used alike"),
    "mutual_information": Quantity(GROUPS[2], "Mutual information of code and image, nats", False, 1),
    "marginal_kl": Quantity(GROUPS[2], "KL(q(y)||p(y)), nats: distance from the prior", False, -1),
}
"""By name without the split; numbers that are not here are shown by their names, under the last heading."""

SAME = {"cluster_error_percent", "bayes_cluster_error_percent"}
"""Numbers that say what another says already."""


def quantity(name: str) -> Quantity:
    """What is known about a number."""
    return QUANTITIES.get(name) or Quantity(GROUPS[-1], name)


def shown(results: Mapping[str, float]) -> list[str]:
    """The names to show, in the order of reading; standard errors stand beside what they are of."""
    order = {name: number for number, name in enumerate(QUANTITIES)}
    names = [n for n in results if n not in SAME and not (n.endswith(STDERR) and n.removesuffix(STDERR) in results)]
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def written(name: str, results: Mapping[str, float]) -> str:
    """A number with as many digits as make sense, and its standard error."""
    value = results[name]
    if not math.isfinite(value):
        return str(value)
    if quantity(name).percent:
        return f"{100 * value:.1f} %"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    error = results.get(name + STDERR)
    if error is None or not error > 0:
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}" if abs(value) < 100 else f"{value:,.2f}"
    digits = min(max(0, 1 - math.floor(math.log10(error))), 8)  # two digits of the error
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def sentence(results: Mapping[str, float], images: str = "test") -> str:
    """What matters, in a sentence; empty where nothing of it was measured."""
    parts = []
    if "categories_used" in results:
        number = round(results["categories_used"])
        parts.append(f"{number} {'category' if number == 1 else 'categories'} found")
    if "accuracy" in results:
        parts.append(f"{written('accuracy', results)} of {images} images given their class")
    elif "cluster_accuracy" in results:
        parts.append(f"{written('cluster_accuracy', results)} of {images} images in a category of their class")
    if "bits_per_dim" in results:
        parts.append(f"{results['bits_per_dim']:.3f} bits/dim")
    elif "bits_per_dim_upper" in results:
        parts.append(f"at most {results['bits_per_dim_upper']:.3f} bits/dim")
    elif "reconstruction" in results:
        parts.append(f"{results['reconstruction']:.1f} nats to tell an image by its code")
    return ", ".join(parts)
