"""The agreement phase: what the categories of two views of an image tell about each other, and how labels name them."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pixelgan_lightning.normalization import sum_over_processes


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
