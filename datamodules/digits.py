"""The 8x8 digits that come with scikit-learn: nothing to download, small enough for tests and demonstrations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pixelgan_lightning.datamodules.base import ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.splits import stratified_order

_BORDERS = {"train": (0, 1197), "val": (1197, 1497), "test": (1497, 1797)}


class DigitsDataModule(ImageDataModule):
    """scikit-learn's digits: 1,797 images 1x8x8 of 17 grey levels, 10 classes.

    They come as one file, which is cut into 1,197 training, 300 validation and 300 test images; every split has the
    classes in the proportions of the whole. ``index`` counts in the order of ``sklearn.datasets.load_digits``.

    Args:
        split_seed: key of the split.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.
    """

    image_shape = (1, 8, 8)
    num_classes = 10
    class_names = tuple("0123456789")
    native_levels = 17

    def __init__(self, *, split_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.split_seed = split_seed

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """All 1,797 images, whichever ``source``: the data set is one file."""
        from sklearn.datasets import load_digits  # here, because the import takes a second

        digits = load_digits()
        return torch.from_numpy(digits.images).to(torch.uint8)[:, None], torch.from_numpy(digits.target).long()

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split, int64, ascending; a function of ``split_seed`` and ``labels``."""
        order = stratified_order(labels, self.split_seed, "split")
        begin, end = _BORDERS[split]
        return order[begin:end].sort().values
