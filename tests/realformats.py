"""Writes tiny data sets in the real file formats, with digit-like images, for tests of the readers."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.io import savemat
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


def write_mnist(root: Path, train: int = 300, test: int = 60, name: str = "MNIST") -> None:
    """``<root>/MNIST/raw`` with the four files of MNIST; training and test images are different ones."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, number, offset in (("train", train, 0), ("t10k", test, 100)):
        images, labels = digit_images(number, size=28, margin=4, offset=offset)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


def write_svhn_file(path: Path, number: int, offset: int = 0) -> tuple[Tensor, Tensor]:
    """A "format 2" file of SVHN; returns its images ``[N, 3, 32, 32]`` and digits ``[N]`` (0 for the stored 10)."""
    grey, labels = digit_images(number, size=32, offset=offset)
    tint = torch.tensor([1.0, 0.75, 0.5]).view(1, 3, 1, 1)
    images = (grey[:, None] * tint).to(torch.uint8)
    digits = torch.where(labels == 0, 10, labels).to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"X": images.permute(2, 3, 1, 0).numpy(), "y": digits[:, None].numpy()}
    savemat(path, stored, do_compression=True)
    return images, labels


def write_svhn(root: Path, train: int = 300, test: int = 60) -> None:
    """``<root>/SVHN`` with training and test file."""
    write_svhn_file(root / "SVHN" / "train_32x32.mat", train)
    write_svhn_file(root / "SVHN" / "test_32x32.mat", test, offset=100)


NORB_STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}


def binary_matrix(values: np.ndarray) -> bytes:
    """A little-endian binary matrix of bytes or int32, with three dimensions or more in its header."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[values.dtype.name]
    dimensions = [*values.shape, 1, 1][: max(3, values.ndim)]
    return struct.pack(f"<ii{len(dimensions)}i", magic, values.ndim, *dimensions) + values.tobytes()


def write_norb(root: Path, pairs: int = 100, packed: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """``<root>/smallnorb`` with the six files, ``pairs`` in each split (packed: as ``.mat.gz``); returns the contents.

    Classes and toys come in turn, so that 25 pairs have every toy of every class; one lighting is unknown.
    """
    folder = root / "smallnorb"
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for split, toys in (("train", [4, 6, 7, 8, 9]), ("test", [0, 1, 2, 3, 5])):
        rows = np.arange(pairs)
        category, toy = rows % 5, np.array(toys)[rows // 5 % 5]
        grey = np.random.default_rng(len(split)).integers(0, 256, (pairs, 2, 96, 96), dtype=np.uint8)
        grey[:, :, 30:60, 30:60] = (40 * category)[:, None, None, None]  # something that tells the classes apart
        info = np.stack([toy, rows % 9, 2 * (rows % 18), rows % 6], axis=1).astype(np.int32)
        info[0, 3] = -1
        contents[split] = {"dat": grey, "cat": category.astype(np.int32), "info": info}
        for kind, values in contents[split].items():
            path = folder / f"{NORB_STEMS[split]}-{kind}.mat"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(binary_matrix(values), compresslevel=1))
            else:
                path.write_bytes(binary_matrix(values))
    return contents
