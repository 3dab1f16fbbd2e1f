"""Tables of pictures: CSV files with a path and a label in each row."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from pixelgan_lightning.datamodules.conversion import Conversion
from pixelgan_lightning.datamodules.image_sets import ImageSet, ImageSets
from pixelgan_lightning.datamodules.labels import UNKNOWN
from pixelgan_lightning.datamodules.pictures import read_pictures
from pixelgan_lightning.errors import ConfigurationError

_PATH = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABEL = ("label", "labels", "class", "class_name", "target", "category")


def read_table(path: Path, conversion: Conversion) -> ImageSets:
    """The pictures that a table names.

    The first line names the columns: ``path`` (or file, filename, image) and, if there are labels, ``label`` (or class,
    target, category); other columns are left alone. Paths are relative to the folder of the table, and stay in it. An
    empty label, -1 or NaN means that the image has none; ``3.0`` is ``3``, as a column with gaps is written by pandas.

    Args:
        path: a text file in UTF-8, with commas, semicolons or tabs between columns.
        conversion: what the pictures are made into.

    Raises:
        ConfigurationError: it is no such table, or a picture is missing or refused.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=max(",;\t", key=header.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"it is missing or damaged ({error}): allowed is a table in UTF-8") from error
    columns = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name is not None}
    path_column = next((columns[name] for name in _PATH if name in columns), None)
    label_column = next((columns[name] for name in _LABEL if name in columns), None)
    if path_column is None:
        raise ConfigurationError(
            f"it has {len(rows)} rows and columns {', '.join(columns) or 'of no name'}: allowed is a column 'path', "
            "and a column 'label'"
        )
    names = [row[path_column] or "" for row in rows]
    labels = [(row[label_column] or "").strip() if label_column else UNKNOWN for row in rows]
    files = [(found := _within(path.parent, name, row), str(found)) for row, name in enumerate(names)]
    images = read_pictures(files, len(files), str(path), conversion)
    return {"train": ImageSet(images, np.array(_plain(labels), dtype=str), tuple(names))}


def _within(folder: Path, name: str, row: int) -> Path:
    """The picture that a table calls ``name``; one that lies elsewhere is refused."""
    path = folder / name.strip()
    if "\\" in name and not path.exists():
        path = folder / name.strip().replace("\\", "/")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(f"row {row + 1} has {name!r}: allowed are paths within the folder of the table")
    if not path.is_file():
        raise ConfigurationError(f"row {row + 1} has {name!r}, which is not there: allowed are paths from {folder}")
    return path


def _plain(labels: list[str]) -> list[str]:
    """Labels without what a table does to numbers where some are missing."""
    known = [UNKNOWN if label.lower() in ("", "-1", "-1.0", "nan") else label for label in labels]
    if all(re.fullmatch(r"\d+(\.0*)?", label) for label in known if label != UNKNOWN):
        return [label.partition(".")[0] for label in known]
    return known
