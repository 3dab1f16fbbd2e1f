"""What is found for all images, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pixelgan_lightning.callbacks.cluster_accuracy import current_classes
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.evaluation.predictions import Predictions, check_table, write_arrays, write_table

KEPT = ("index", "label", "code", "probabilities")
SOURCES = {"train": "train", "val": "train", "test": "test"}


class PredictionTable(pl.Callback):
    """Writes what ``predict`` finds to ``<default_root_dir>/predictions/<split>.csv``, and the codes beside it.

    A row for each image: its file name where the data module knows it (``image_name(source, row)``), the class by name
    with its probability, the category with its, and the label
    (:meth:`~pixelgan_lightning.evaluation.predictions.Predictions.columns`). Codes and ``q(y|x)`` are arrays of the
    same rows in ``<split>.npz``. Files have their names only once they are complete. With several processes each
    writes the rows of its own images, to ``<split>.rank<r>.csv``.

    Args:
        out: one table of all splits, ``.csv`` or ``.parquet`` (which needs pyarrow), with the codes beside it; None for
            one CSV file for each split in the run's folder.
        classes: what the categories stand for, which a checkpoint knows
            (:attr:`~pixelgan_lightning.files.weights.Stored.classes`); None: what the trainer's ``ClusterAccuracy``
            found last, if there is one. Without either the table has categories and no classes.

    Attributes:
        written: the tables.

    Raises:
        ConfigurationError: ``out`` is not usable; at setup, without a data module that names its splits
            (``predict_split_names``).
    """

    def __init__(self, out: str | None = None, classes: CategoryClasses | None = None) -> None:
        self.out = None if out is None else check_table(Path(out))
        self.classes = classes
        self.written: list[Path] = []
        self._found: dict[int, list[dict[str, Tensor]]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._found, self.written = {}, []
        if stage == "predict" and not hasattr(getattr(trainer, "datamodule", None), "predict_split_names"):
            raise ConfigurationError(
                "PredictionTable with datamodule=None is not usable in predict: allowed is a data module with "
                "predict_split_names"
            )

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        kept = {name: outputs[name].cpu() for name in KEPT if name in outputs}
        self._found.setdefault(dataloader_idx, []).append(kept)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        found = {data.predict_split_names[i]: _joined(batches) for i, batches in sorted(self._found.items())}
        self._found = {}
        if self.out is not None:
            splits = [split for split, columns in found.items() for _ in columns["index"]]
            files = [_files(data, split, columns["index"]) for split, columns in found.items()]
            names = None if None in files else [name for of_split in files for name in of_split or ()]
            self._write(trainer, self.out, _joined(list(found.values())), names, splits if len(found) > 1 else None)
            return
        folder = Path(trainer.default_root_dir) / "predictions"
        for split, columns in found.items():
            self._write(trainer, folder / f"{split}.csv", columns, _files(data, split, columns["index"]))

    def _write(
        self,
        trainer: pl.Trainer,
        path: Path,
        columns: dict[str, Tensor],
        files: list[str] | None,
        splits: list[str] | None = None,
    ) -> None:
        if trainer.world_size > 1:
            path = path.with_name(f"{path.stem}.rank{trainer.global_rank}{path.suffix}")
        predictions = Predictions(
            columns["index"], columns["label"], columns["code"], columns.get("probabilities"), files, splits
        )
        names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        write_table(path, predictions.columns(self.classes or current_classes(trainer), names))
        write_arrays(path.with_suffix(".npz"), predictions)
        self.written.append(path)


def _joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _files(data: Any, split: str, rows: Tensor) -> list[str] | None:
    """File names of images, None where the data module does not know them."""
    if not hasattr(data, "image_name"):
        return None
    names = [data.image_name(SOURCES.get(split, split), row) for row in rows.tolist()]
    return None if None in names else names
