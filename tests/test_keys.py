"""Every random draw has a key of its own: two purposes never get the same numbers."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import SMALL, all_phases, pixelgan

from pixelgan_lightning import random

ALL = {
    "model": {
        "phases": all_phases(agreement={"neighbour_steps": 2}),
        "augmentation": {"class_path": "RandomAffine"},
        "posterior": {"class_path": "CategoricalPosterior"},
        "likelihood": {"class_path": "Bernoulli"},
        "discriminator": {"class_path": "MLPDiscriminator", "init_args": {"code_noise": 0.1, "label_aware": True}},
    },
    "data": {
        "class_path": "DigitsDataModule",
        "init_args": {
            "binarization": "dynamic",
            "augmentation": {"class_path": "RandomAffine"},
            "num_labelled": 20,
            "labelled_batch_size": 15,
            "neighbours": 2,
        },
    },
    "trainer": {
        "max_epochs": 2,
        "callbacks": [
            {"class_path": "ClusterAccuracy", "init_args": {"views": 2}},
            {"class_path": "SampleGrid", "init_args": {"columns": 1}},
            {"class_path": "LatentScatter"},
            {"class_path": "MarginalLikelihood", "init_args": {"max_images": 4, "splits": ["val"]}},
            {"class_path": "InformationDecomposition", "init_args": {"max_images": 4, "splits": ["val"]}},
        ],
    },
}


class Recorder:
    """Stands for :mod:`hashlib` in the module that makes numbers of keys; remembers each key and who asked."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.places: dict[str, set[str]] = defaultdict(set)
        self.of_a_step: Counter[str] = Counter()

    def sha256(self, content: bytes) -> Any:
        frame, within = sys._getframe(1), []
        while frame is not None and frame.f_code.co_filename == random.__file__:
            within.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        key = content.decode()
        self.places[key].add(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}")
        self.of_a_step[key] += "stream" in within or "__call__" in within
        return self.original.sha256(content)


@pytest.mark.parametrize("step", ["sequential", "fused"])
def test_no_two_draws_of_a_run_have_the_same_key(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(random.hashlib)
    monkeypatch.setattr(random, "hashlib", recorder)
    Path("all.yaml").write_text(yaml.safe_dump(ALL, sort_keys=False))
    pixelgan("fit", "--config", SMALL, "--config", "all.yaml", "--model.step", step, "--run_dir", "run")
    # The same key at the same place is the same draw made again: a cached order, the samples of each validation.
    assert {key: places for key, places in recorder.places.items() if len(places) > 1} == {}
    assert {key: number for key, number in recorder.of_a_step.items() if number > 1} == {}
    assert sum(recorder.of_a_step.values()) > 4 * 10
    assert len({eval(key)[-1] for key in recorder.of_a_step}) > 15
