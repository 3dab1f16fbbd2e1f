"""The objective of the agreement phase: what the categories of two views of an image tell about each other."""

from __future__ import annotations

import torch
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
