"""Writes tiny data sets in the real file formats, with digit-like images, for tests of the readers."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor


def digit_images(number: int, size: int, margin: int = 0, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Digits 0, 1, 2, ... in turn as images ``[number, size, size]`` uint8 (0..255) and labels int64 ``[number]``.

    The 8x8 digits of scikit-learn are enlarged to the square within ``margin``;
    the first ``offset`` of each class are left out.
    """
    digits = load_digits()
    target = torch.from_numpy(digits.target).long()
    members = [(target == label).nonzero().flatten() for label in range(10)]
    labels = torch.arange(number) % 10
    rows = torch.stack([members[i % 10][(offset + i // 10) % len(members[i % 10])] for i in range(number)])
    small = torch.from_numpy(digits.images).float()[rows, None] * (255 / 16)
    inner = F.interpolate(small, size=size - 2 * margin, mode="bilinear", align_corners=False)
    return F.pad(inner.round().to(torch.uint8), [margin] * 4)[:, 0], labels


def write_idx(path: Path, values: Tensor) -> None:
    """An uncompressed IDX file of unsigned bytes: big-endian magic number and sizes, then the data."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def write_mnist(root: Path, train: int = 300, test: int = 60) -> None:
    """``<root>/MNIST/raw`` with the four files of MNIST; training and test images are different ones."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, number, offset in (("train", train, 0), ("t10k", test, 100)):
        images, labels = digit_images(number, size=28, margin=4, offset=offset)
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels)
