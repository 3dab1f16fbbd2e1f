"""What a run's folder tells."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.plain_files import parse_yaml, read_numbers, read_text

Series = dict[int, float]

HIDDEN = ("epoch", "step")


@dataclass(frozen=True)
class Predicted:
    """The table that ``pixelgan predict`` made of a split, and its arrays.

    Attributes:
        split: its name.
        rows: of the table, by column.
        code: ``[N, D]``.
        probabilities: ``[N, K]``, ``q(y|x)``; None for a code without categories.
    """

    split: str
    rows: list[dict[str, str]]
    code: np.ndarray
    probabilities: np.ndarray | None


@dataclass
class Run:
    """What is found in a run folder.

    Attributes:
        folder: of the run.
        config: the newest configuration, YAML.
        results: of the last test, by name without ``test/``.
        series: what was logged in training and validation: values by batch, by name.
        pictures: the last picture of each name.
        predicted: what was predicted for the test images, or for others where these are not there.
        missing: in words, what is not there.
    """

    folder: Path
    config: str = ""
    results: dict[str, float] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    predicted: Predicted | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def batches(self) -> int | None:
        """How many batches it was trained on, as far as the log tells."""
        steps = [step for name, values in self.series.items() if name.startswith("train/") for step in values]
        return max(steps) + 1 if steps else None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def numbers(self) -> tuple[dict[str, float], str]:
        """The numbers to speak of, of the test or else of the last validation, and which images they are of."""
        if self.results:
            return self.results, "test"
        found = {name.removeprefix("val/"): values for name, values in self.series.items() if name.startswith("val/")}
        return {name: list(values.values())[-1] for name, values in found.items()}, "validation"

    @property
    def summary(self) -> str:
        """What kind of run it is, in a line."""
        parts = [self.setting(f"{key}.class_path") for key in ("data", "model.prior", "model.decoder")]
        words = [str(part).rpartition(".")[2] for part in parts if part is not None]
        labels = self.setting("data.init_args.num_labelled")
        if words:
            words.append(f"{labels} labels" if labels else "no labels in training")
        return " · ".join(words + ([f"{self.batches:,} batches"] if self.batches else []))

    def picture(self, *names: str) -> Path | None:
        """The first picture of these that there is, of the test rather than of a validation."""
        paths = (self.pictures.get(prefix + name) for name in names for prefix in ("test_", ""))
        return next(filter(None, paths), None)

    def setting(self, key: str) -> object:
        """A value of the configuration by its dotted key; None where there is none."""
        node: object = yaml.safe_load(self.config) if self.config else None
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever of it there is.

    Raises:
        ConfigurationError: it is no folder, holds nothing of a run, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"run folder {folder} is not usable: allowed are folders of runs")
    run = Run(folder)
    config = _newest(folder.glob("config*.yaml"))
    if config:
        run.config = read_text(config)
        parse_yaml(run.config, str(config))
    results = folder / "results.json"
    if results.is_file():
        run.results = {k.removeprefix("test/"): v for k, v in read_numbers(results).items() if k not in HIDDEN}
    series = _series(sorted(folder.glob("*/metrics.csv"), key=_age))
    run.series = {name: values for name, values in series.items() if not name.startswith("test/")}
    run.pictures = _latest_pictures(folder / "images")
    run.predicted = _predicted(folder / "predictions")
    parts = {
        "no curves: there is no metrics.csv (a CSVLogger writes it)": run.series,
        "no results: there is no results.json (pixelgan test writes it)": run.results,
        "no pictures: there is no images folder (SampleGrid, ClusterAccuracy and LatentScatter draw)": run.pictures,
        "no codes: there is no predictions folder (pixelgan predict writes it)": run.predicted,
        "no configuration: there is no config.yaml (pixelgan fit writes it)": run.config,
    }
    run.missing = [words for words, part in parts.items() if not part]
    if len(run.missing) == len(parts):
        raise ConfigurationError(f"run folder {folder} is not usable: allowed are folders of runs, this one holds none")
    return run


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=_age, default=None)


def _series(tables: Sequence[Path]) -> dict[str, Series]:
    """Columns of the tables by step; a continued run writes a second table, and of equal steps the later counts."""
    series: dict[str, Series] = {}
    for table in tables:
        for row in csv.DictReader(io.StringIO(read_text(table))):
            try:
                step = int(float(row["step"]))
                values = {name: float(text) for name, text in row.items() if name not in HIDDEN and text}
            except (KeyError, ValueError, TypeError) as error:
                raise ConfigurationError(f"{table} is not usable: allowed is a table of numbers ({error!r})") from error
            for name, value in values.items():
                series.setdefault(name, {})[step] = value
    return {name: dict(sorted(values.items())) for name, values in sorted(series.items())}


def _latest_pictures(folder: Path) -> dict[str, Path]:
    """The last picture of each name."""
    latest: dict[str, Path] = {}
    for path in sorted(folder.glob("**/*.png"), key=lambda path: (path.stem, _age(path))):
        latest[re.sub(r"-step\d+$", "", path.stem)] = path
    return latest


def _predicted(folder: Path) -> Predicted | None:
    """The table of the test images, else of validation or training images."""
    table = next((path for split in ("test", "val", "train") if (path := folder / f"{split}.csv").is_file()), None)
    if table is None:
        return None
    rows = list(csv.DictReader(io.StringIO(read_text(table))))
    arrays = table.with_suffix(".npz")
    try:
        with np.load(arrays, allow_pickle=False) as found:
            code = np.asarray(found["code"], dtype=float)
            q = np.asarray(found["probabilities"], dtype=float) if "probabilities" in found.files else None
        if len(rows) != len(code) or not all({"row", "label"} <= row.keys() for row in rows):
            raise ValueError("it does not have the rows of the table beside it")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{arrays} is not usable: {error}") from error
    return Predicted(table.stem, rows, code, q)
