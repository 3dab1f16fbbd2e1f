"""Codes of all images as CSV files."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TextIO

import pytorch_lightning as pl
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError

Row = list[str]


class PredictionTable(pl.Callback):
    """Writes what ``predict`` finds to ``<default_root_dir>/predictions/<split>.csv``, batch by batch.

    Columns: ``index`` (of the image in its file), ``code_0`` ... ``code_{d-1}``, then for categorical codes
    ``category`` and ``probability``, then ``label``, empty where unknown. Numbers have nine significant digits, which
    give back the float32 exactly. A file has its name only once it is complete. With several processes each writes the
    rows of its own images to ``<split>.rank<r>.csv``.

    Raises:
        ConfigurationError: at setup, without a data module that names its splits (``predict_split_names``).
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: TextIO | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
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
        header, rows = _table(outputs)
        path = self._destination(trainer, dataloader_idx)
        new = path != self._path
        if new:
            self._finish()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path, self._file = path, _unfinished(path).open("w", newline="")
        assert self._file is not None
        writer = csv.writer(self._file)
        if new:
            writer.writerow(header)
        writer.writerows(rows)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drop a file that an exception left incomplete."""
        if self._file is not None and self._path is not None:
            self._file.close()
            _unfinished(self._path).unlink()
            self._path = self._file = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, stage="predict")

    def _finish(self) -> None:
        if self._file is not None and self._path is not None:
            self._file.close()
            os.replace(_unfinished(self._path), self._path)
            self._path = self._file = None

    def _destination(self, trainer: pl.Trainer, dataloader_idx: int) -> Path:
        split = trainer.datamodule.predict_split_names[dataloader_idx]  # type: ignore[attr-defined]
        rank = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        return Path(trainer.default_root_dir) / "predictions" / f"{split}{rank}.csv"


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _table(outputs: dict[str, Tensor]) -> tuple[Row, list[Row]]:
    """Header and rows of one batch."""
    code = outputs["code"]
    columns = {"index": _integers(outputs["index"])}
    columns |= {f"code_{i}": _reals(column) for i, column in enumerate(code.T)}
    if "category" in outputs:
        columns["category"] = _integers(outputs["category"])
        columns["probability"] = _reals(outputs["probability"])
    columns["label"] = ["" if label == "-1" else label for label in _integers(outputs["label"])]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _integers(values: Tensor) -> list[str]:
    return [str(value) for value in values.tolist()]


def _reals(values: Tensor) -> list[str]:
    return [f"{value:.9g}" for value in values.tolist()]
