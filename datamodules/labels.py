"""Labels in the forms that people store them in, as names of classes, and names of classes as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError

UNKNOWN = ""
"""The name of the class of an image without label."""


def label_names(labels: np.ndarray | None, number: int) -> np.ndarray:
    """Labels as the names of their classes.

    Args:
        labels: text, whole numbers (as floating-point numbers too) or truth values ``[N]`` or ``[N, 1]``, or one-hot
            rows ``[N, K]``. Without label is an image with an empty text, -1, NaN or a row of zeros. None: all are.
        number: N.

    Returns:
        Text ``[N]``, :data:`UNKNOWN` for an image without label.

    Raises:
        ConfigurationError: they are of another shape or kind.
    """
    if labels is None:
        return np.full(number, UNKNOWN, dtype="U1")
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else _from_one_hot(labels)
    if labels.shape != (number,):
        raise ConfigurationError(f"its labels are {list(labels.shape)}: allowed is [{number}], one for each image")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        return np.char.strip(labels)
    if labels.dtype.kind == "b":
        return labels.astype("U5")
    if labels.dtype.kind == "f":
        labels = _from_real(labels)
    if labels.dtype.kind not in "iu":
        raise ConfigurationError(
            f"its labels are {labels.dtype}: allowed are text and whole numbers, empty or -1 for an image without label"
        )
    if len(labels) and labels.min() < -1:
        raise ConfigurationError(f"its labels go down to {labels.min()}: allowed are 0, 1, 2, ... and -1")
    names = labels.astype("U20")
    names[names == "-1"] = UNKNOWN
    return names


def _from_real(labels: np.ndarray) -> np.ndarray:
    """Whole numbers, -1 for NaN."""
    whole = np.where(np.isnan(labels), -1, labels)
    odd = ~np.isfinite(whole) | (whole != np.round(whole))
    if odd.any():
        raise ConfigurationError(f"its labels have {whole[odd][0]:g}: allowed are whole numbers, -1 and NaN")
    return whole.astype(np.int64)


def _from_one_hot(labels: np.ndarray) -> np.ndarray:
    """The place of the one in each row, -1 for a row of zeros."""
    if labels.dtype.kind not in "biuf":
        raise ConfigurationError(f"its labels are {labels.dtype} {list(labels.shape)}: allowed is one label an image")
    odd = ((labels != 0) & (labels != 1)).any(1) | ((labels != 0).sum(1) > 1)
    if odd.any():
        row = int(odd.argmax())
        raise ConfigurationError(
            f"its labels are {list(labels.shape)} and row {row} is no single class: allowed are rows with one 1"
        )
    return np.where((labels != 0).any(1), labels.argmax(1), -1)


def sorted_classes(labels: np.ndarray) -> tuple[str, ...]:
    """The classes that occur, in the order of their numbers where all names are numbers, else in that of the alphabet.

    Args:
        labels: names ``[N]``, as :func:`label_names` returns them.
    """
    names = [str(name) for name in np.unique(labels) if name != UNKNOWN]
    if all(re.fullmatch(r"\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(names)


def class_numbers(labels: np.ndarray, classes: Sequence[str]) -> Tensor:
    """Names ``[N]`` as places in ``classes``, int64 ``[N]``, -1 for :data:`UNKNOWN`.

    Raises:
        ConfigurationError: an image is of another class.
    """
    places = {name: place for place, name in enumerate(classes)} | {UNKNOWN: -1}
    names, rows = np.unique(labels, return_inverse=True)
    for name in names:
        if name not in places:
            known = ", ".join(classes) or "none, as no training image has a label"
            raise ConfigurationError(f"it has class {str(name)!r}: allowed are those of the training images, {known}")
    return torch.tensor([places[str(name)] for name in names])[torch.from_numpy(rows)]
