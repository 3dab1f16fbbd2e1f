"""Reads the file that W&B writes offline: a log of protocol-buffer records in blocks of 32 KiB, as LevelDB has them."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
FIRST, MIDDLE, LAST = 2, 3, 4  # parts of a record that does not fit a block; 1 is a whole one


def records(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file, in order."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:  # no room for a header: padding up to the next block
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        part = content[position + 7 : position + 7 + length]
        position += 7 + length
        parts = part if kind not in (MIDDLE, LAST) else parts + part
        if kind not in (FIRST, MIDDLE):
            if len(part) < length:
                return  # still being written
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


class OfflineRun:
    """What one offline run holds.

    Attributes:
        id, tags: of the run.
        config: all values.
        history: the rows that were logged, in order.
        summary: the values at the end.
        artifacts: type and name of each.
    """

    def __init__(self, file: Path) -> None:
        self.id, self.tags = "", []
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[tuple[str, str]] = []
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.tags = record.run.run_id, list(record.run.tags)
                self._update(self.config, record.run.config.update)
            elif kind == "config":
                self._update(self.config, record.config.update)
            elif kind == "history":
                row: dict[str, Any] = {}
                self._update(row, record.history.item)
                self.history.append(row)
            elif kind == "summary":
                self._update(self.summary, record.summary.update)
            elif kind == "artifact":
                self.artifacts.append((record.artifact.type, record.artifact.name))

    @staticmethod
    def _update(target: dict[str, Any], items: Any) -> None:
        target.update({_key(item): json.loads(item.value_json) for item in items})

    def series(self, name: str) -> dict[int, Any]:
        """By step, the value of a series."""
        return {int(row["trainer/global_step"]): row[name] for row in self.history if name in row}


def offline_runs(folder: Path) -> list[OfflineRun]:
    """The finished offline runs below ``folder``, oldest first.

    W&B's service writes the end of a file a moment after ``wandb.finish()`` has returned; this waits for it.
    """
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    give_up = time.monotonic() + 60
    while not all(any(record.WhichOneof("record_type") == "exit" for record in records(file)) for file in files):
        assert time.monotonic() < give_up, f"a run in {folder} has no end"
        time.sleep(0.05)
    return [OfflineRun(file) for file in files]
