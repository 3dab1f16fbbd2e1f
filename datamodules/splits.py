"""Orders of images to cut splits from."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.random import Key, keyed_generator


def stratified_order(labels: Tensor, *key: Key) -> Tensor:
    """A random order in which any stretch of the whole has the classes in their proportions.

    Every image gets its relative place in a random order of its class; the images are sorted by that.

    Args:
        labels: int64 ``[N]``; unlabelled images (-1) are treated as one class more.
        key: what the order is a function of, beside ``labels``.

    Returns:
        A permutation of ``0..N-1``, int64 ``[N]``.
    """
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=keyed_generator(*key, label))
        place[members] = (order.double() + 0.5) / len(members)
    return place.argsort(stable=True)
