"""Tables of what a model says about images: columns for people, as CSV or Parquet, and arrays for programs."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.evaluation.metrics import UNKNOWN
from pixelgan_lightning.whole_file import whole_file

TABLES = (".csv", ".parquet")

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Predictions:
    """What is found for N images.

    Attributes:
        row: ``[N]`` int64, number of each image in its file or folder.
        label: ``[N]`` int64, -1 where unknown.
        code: ``[N, D]`` float32.
        probabilities: ``[N, K]`` float32, ``q(y|x)``; None for a code without categories.
        files: N names; None where images have none.
        splits: N names of splits; None for images of one split.
    """

    row: Tensor
    label: Tensor
    code: Tensor
    probabilities: Tensor | None = None
    files: Sequence[str] | None = None
    splits: Sequence[str] | None = None

    def columns(self, classes: CategoryClasses | None = None, names: Sequence[str] | None = None) -> Columns:
        """The table: lists of N values by name; None where a value is not known.

        Args:
            classes: what the categories stand for.
            names: of the labels; None: those of ``classes``, or the numbers.

        Returns:
            These columns:

            - ``split``, ``file``: only where there are some; ``row``;
            - ``class`` and ``class_probability``, only with ``classes``: the class that the most probable category
              stands for, and the probability of all categories that stand for it;
            - ``category`` and ``category_probability``, only with categories: the most probable one;
            - ``label``: what is known without the model.
        """
        columns: Columns = {}
        if self.splits is not None:
            columns["split"] = list(self.splits)
        if self.files is not None:
            columns["file"] = list(self.files)
        columns["row"] = self.row.tolist()
        if self.probabilities is not None:
            probability, category = self.probabilities.max(1)
            if classes is not None:
                of_category = torch.tensor(classes.of_category)
                same = of_category[category][:, None] == of_category
                known = (of_category[category] != UNKNOWN).tolist()
                total = (self.probabilities * same).sum(1).clamp(max=1.0).tolist()
                columns["class"] = [classes.name_of_category(k) or None for k in category.tolist()]
                columns["class_probability"] = [p if k else None for p, k in zip(total, known, strict=True)]
            columns["category"] = category.tolist()
            columns["category_probability"] = probability.tolist()
        names = classes.names if names is None and classes is not None else names
        labels = self.label.tolist()
        columns["label"] = [None if label == UNKNOWN else str(names[label] if names else label) for label in labels]
        return columns

    def arrays(self) -> dict[str, Any]:
        """The same images for programs: ``row``, ``label``, ``code``, ``probabilities``, ``files`` and ``splits``."""
        found = vars(self)
        return {name: np.asarray(value) for name, value in found.items() if value is not None}


def check_table(path: Path) -> Path:
    """``path``, if a table can be written under this name.

    Raises:
        ConfigurationError: another ending, a folder that does not exist, or Parquet without pyarrow.
    """
    if path.suffix not in TABLES:
        raise ConfigurationError(f"out={path} is not usable: allowed are names that end in {' or '.join(TABLES)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError(f"out={path} is not usable without pyarrow: allowed are .csv, or pip install pyarrow")
    if not path.parent.is_dir():
        raise ConfigurationError(f"out={path} is not usable: there is no folder {path.parent}")
    return path


def write_table(path: Path, columns: Columns) -> None:
    """Write a table; CSV has probabilities with four decimals and nothing where a value is not known.

    Raises:
        RunError: the file cannot be written.
    """
    with whole_file(path) as unfinished:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)
            return
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(map(_cells, zip(*columns.values(), strict=True)))


def _cells(values: Sequence[Any]) -> list[str]:
    return ["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]


def write_arrays(path: Path, predictions: Predictions) -> None:
    """Write codes and probabilities to an ``.npz``.

    Raises:
        RunError: the file cannot be written.
    """
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **predictions.arrays())
