"""Callbacks in a real trainer, around a small stand-in for the model."""

from __future__ import annotations

import csv
import errno
import importlib.util
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from pixelgan_lightning.augmentations import RandomAffine
from pixelgan_lightning.callbacks import (
    ClusterAccuracy,
    LatentScatter,
    MarginalLikelihood,
    PredictionTable,
    SampleGrid,
    log_figures,
)
from pixelgan_lightning.errors import ConfigurationError, RunError
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.random import keyed_generator

SHAPE = (1, 4, 4)
CLASSES = 3


class Categories:
    """A categorical prior."""

    def __init__(self, k: int) -> None:
        self.code_dim = self.num_categories = k

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.eye(self.code_dim)[torch.randint(self.code_dim, (n,), generator=generator)]

    def enumerate(self) -> tuple[Tensor, Tensor]:
        return torch.eye(self.code_dim), torch.full((self.code_dim,), -math.log(self.code_dim))

    def manifold(self, side: int) -> None:
        return None


class Plane:
    """A continuous 2-D prior whose ``sample`` rudely draws from the global stream too."""

    code_dim, num_categories, num_components = 2, None, None

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        torch.rand(1)
        return torch.randn(n, 2, generator=generator)

    def enumerate(self) -> None:
        return None

    def manifold(self, side: int) -> Tensor:
        return torch.zeros(side * side, 2)


class Model(pl.LightningModule):
    """Has what the callbacks use; the category of an image is how bright it is."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior, self.image_shape, self.num_classes = prior, SHAPE, CLASSES
        self.posterior, self.augmentation = None, None
        self.weight = nn.Parameter(torch.zeros(()))

    def category_logits(self, x: Tensor, views: int = 0) -> Tensor:
        centres = torch.linspace(0, 1, self.prior.num_categories)
        if views:  # every view is of an image that is as dark as this one is bright
            x = 1 - x
        return -50 * (x.mean(dim=(1, 2, 3))[:, None] - centres).abs()

    def encode(self, x: Tensor) -> Tensor:
        return self.category_logits(x).softmax(1) if self.prior.num_categories else x[:, 0, 0, :2]

    def sample(self, codes: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        noise = torch.rand(len(codes), *SHAPE, generator=keyed_generator("sample", seed))
        return (codes[:, :1, None, None] + noise) / 2

    def log_joint(self, x: Tensor) -> Tensor:
        return self.category_logits(x).double().log_softmax(1) - x.sum(dim=(1, 2, 3))[:, None].double()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.weight.square()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        code = self.encode(batch["image"])
        row = {"index": batch["index"], "label": batch["label"], "code": code}
        if self.prior.num_categories is not None:
            row["probabilities"] = self.category_logits(batch["image"]).softmax(1)
        return row

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Loader:
    """Batches of 8 out of tensors."""

    def __init__(self, brightness: list[float], labels: list[int]) -> None:
        self.image = torch.tensor(brightness)[:, None, None, None].expand(-1, *SHAPE)
        self.label, self.index = torch.tensor(labels), torch.arange(len(labels))

    def __len__(self) -> int:
        return math.ceil(len(self.label) / 8)

    def __iter__(self) -> Any:
        for index in self.index.split(8):
            yield {"image": self.image[index], "label": self.label[index], "index": index}


class Data(pl.LightningDataModule):
    """Validation: dark images are 1, grey ones 2, bright ones 0, with some mislabelled."""

    predict_split_names = ("val", "test")
    val = Loader([0.0] * 9 + [0.5] * 6 + [1.0] * 5, [1] * 6 + [2] * 3 + [2] * 6 + [0] * 4 + [-1])
    test = Loader([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 0.5, 1.0], [1, 1, 2, 0, 0, 0, 2, 1, 2, 0])

    def __init__(self, num_labelled: int | None = None) -> None:
        super().__init__()
        self.num_labelled = num_labelled
        self.stages: list[str] = []

    def setup(self, stage: str) -> None:
        self.stages.append(stage)

    def train_dataloader(self) -> Loader:
        return self.val

    def val_dataloader(self) -> Loader:
        return self.val

    def test_dataloader(self) -> Loader:
        return self.test

    def predict_dataloader(self) -> list[Loader]:
        return [self.val, self.test]


def make_trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 1}
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{**defaults, **options},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir())


class TestLogFigures:
    def test_files_and_every_logger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """CSV, TensorBoard and W&B at once, in a real run; W&B gets one row for the figures of one callback."""
        monkeypatch.setenv("WANDB_SILENT", "true")
        loggers = [
            CSVLogger(tmp_path, name="csv"),
            TensorBoardLogger(tmp_path, name="tensorboard"),
            WandbLogger(save_dir=tmp_path, offline=True),
        ]
        rows: list[dict[str, Any]] = []
        run = loggers[2].experiment
        monkeypatch.setattr(run, "log", lambda data, *args, **kwargs: rows.append(data))
        trainer = make_trainer(tmp_path, SampleGrid(columns=2), ClusterAccuracy(), logger=loggers)
        trainer.fit(Model(Categories(4)), Data())
        run.finish()

        expected = ["confusion", "reconstructions", "samples"]
        assert names(tmp_path) == [f"{name}-step0000003.png" for name in expected]
        events = EventAccumulator(loggers[1].log_dir, {"images": 0}).Reload()
        assert sorted(events.Tags()["images"]) == [f"images/{name}" for name in expected]
        numbers = {event.step for event in events.Scalars("val/nmi")}
        assert {event.step for name in expected for event in events.Images(f"images/{name}")} == numbers
        drawn = [row for row in rows if any(key.startswith("images/") for key in row)]
        assert sorted(map(sorted, drawn)) == [
            ["images/confusion", "trainer/global_step"],
            ["images/reconstructions", "images/samples", "trainer/global_step"],
        ]
        assert {row["trainer/global_step"] for row in drawn} == numbers

    def test_wandb_takes_the_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_SILENT", "true")
        logger = WandbLogger(save_dir=tmp_path, offline=True)
        trainer = make_trainer(tmp_path, logger=logger)
        log_figures(trainer, {"a": Figure((1, 1)), "b": Figure((1, 1))}, 7)
        summary = dict(logger.experiment.summary)
        logger.experiment.finish()
        assert summary["trainer/global_step"] == 7
        assert summary["images/a"]["_type"] == summary["images/b"]["_type"] == "image-file"
        assert summary["_step"] == 0

    def test_nothing_on_other_ranks(self, tmp_path: Path) -> None:
        elsewhere: Any = SimpleNamespace(is_global_zero=False)
        assert log_figures(elsewhere, {"a": Figure((1, 1))}, 0) == []

    def test_no_unfinished_file_under_the_final_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Figure, target: Path, **kwargs: Any) -> None:
            Path(target).write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(Figure, "savefig", fail)
        with pytest.raises(RunError, match=r"a-step0000000\.png cannot be written: disk full$"):
            log_figures(make_trainer(tmp_path), {"a": Figure((1, 1))}, 0)
        assert not list(tmp_path.glob("images/*"))


class TestSampleGrid:
    def test_schedule_and_end_of_training(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, SampleGrid(every_n_epochs=2, columns=2, reconstructions=0), max_epochs=3)
        trainer.fit(Model(Categories(3)), Data())
        assert names(tmp_path) == ["samples-step0000006.png", "samples-step0000009.png"]

    def test_sanity_check_draws_nothing(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, SampleGrid(columns=2), max_epochs=1)
        trainer.fit(Model(Categories(3)), Data())
        assert not any("step0000000" in name for name in names(tmp_path))

    def test_every_figure_of_a_plane_also_in_a_test(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, SampleGrid(columns=2, manifold_side=3))
        model, data = Model(Plane()), Data()
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        expected = ["manifold", "reconstructions", "samples"]
        assert names(tmp_path) == sorted(f"{p}{name}-step0000003.png" for name in expected for p in ("", "test_"))

    def test_rows_carry_category_and_digit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[tuple[int, ...], Any]] = []

        def image_rows(images: Tensor, labels: Any) -> Figure:
            seen.append((tuple(images.shape), labels))
            return Figure((1, 1))

        monkeypatch.setattr(figures, "image_rows", image_rows)
        # The grid comes first in the list and still sees the mapping of the same validation.
        trainer = make_trainer(tmp_path, SampleGrid(columns=4, max_rows=2), ClusterAccuracy())
        trainer.fit(Model(Categories(3)), Data())
        assert seen == [((2, 4, *SHAPE), ["1  (k=0)", "2  (k=1)"])]

    @pytest.mark.parametrize("prior", [Categories(3), Plane()])
    def test_training_is_not_disturbed(self, tmp_path: Path, prior: Any) -> None:
        """Neither the global random stream nor the mode of the module changes."""
        states: list[tuple[Tensor, bool]] = []

        class Watch(SampleGrid):
            def _draw(self, trainer: pl.Trainer, pl_module: Any, prefix: str = "") -> None:
                states.append((torch.get_rng_state(), pl_module.training))
                super()._draw(trainer, pl_module, prefix)
                states.append((torch.get_rng_state(), pl_module.training))

        make_trainer(tmp_path, Watch(columns=2, manifold_side=2)).fit(Model(prior), Data())
        (before, mode_before), (after, mode_after) = states
        assert torch.equal(before, after)
        assert mode_before == mode_after

    def test_images_to_reconstruct_are_found_again_in_the_data(self, tmp_path: Path) -> None:
        """A checkpoint does not hold them."""
        grid = SampleGrid(columns=2, reconstructions=5)
        trainer = make_trainer(tmp_path, grid)
        trainer.fit(Model(Plane()), Data())
        seen, grid._inputs = grid._inputs, None
        assert seen is not None
        assert all(not isinstance(value, Tensor) for value in grid.state_dict().values())
        grid._drawn_at = None
        grid.on_train_end(trainer, trainer.lightning_module)
        assert torch.equal(grid._inputs, seen)  # type: ignore[arg-type]

    def test_same_pictures_every_time(self, tmp_path: Path) -> None:
        for seed, run in enumerate(("one", "two")):
            torch.manual_seed(seed)  # the global stream is no part of the pictures
            make_trainer(tmp_path / run, SampleGrid(columns=2)).fit(Model(Plane()), Data())
        for path in (tmp_path / "one" / "images").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / "images" / path.name).read_bytes()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"every_n_epochs": 0},
            {"columns": 0},
            {"max_rows": 2.5},
            {"reconstructions": -1},
            {"manifold_side": -1},
            {"temperature": 0.0},
            {"temperature": math.nan},
        ],
    )
    def test_unusable_arguments(self, arguments: dict[str, Any]) -> None:
        (name, value), *_ = arguments.items()
        with pytest.raises(ConfigurationError, match=f"{name}={value!r} is not usable: allowed are"):
            SampleGrid(**arguments)


class TestClusterAccuracy:
    def test_validation_numbers(self, tmp_path: Path) -> None:
        """Category 0 holds 6 ones and 3 twos, 1 six twos, 2 four zeros (and one image without a label)."""
        callback = ClusterAccuracy()
        trainer = make_trainer(tmp_path, callback)
        (logged,) = trainer.validate(Model(Categories(3)), Data(num_labelled=30), verbose=False)
        assert callback.mapping is not None
        assert callback.mapping.best_example.tolist() == [1, 2, 0]  # all images of a kind tie: the first one's label
        assert logged["val/cluster_accuracy"] == pytest.approx(16 / 19)
        assert logged["val/cluster_accuracy_majority"] == pytest.approx(16 / 19)
        assert logged["val/cluster_accuracy_hungarian"] == pytest.approx(16 / 19)
        assert logged["val/accuracy"] == 0.0  # no image's category is its label
        assert logged["val/categories_used"] == 3
        shares = np.array([9, 6, 5]) / 20
        assert logged["val/aggregate_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
        assert logged["val/code_entropy"] == pytest.approx(0.0, abs=1e-6)
        assert logged["val/mutual_information"] == pytest.approx(logged["val/aggregate_entropy"], abs=1e-6)
        assert logged["val/marginal_kl"] == pytest.approx(math.log(3) - logged["val/aggregate_entropy"], abs=1e-6)
        assert 0 < logged["val/nmi"] < 1
        assert 0 < logged["val/ari"] < 1
        assert names(tmp_path) == ["confusion-step0000000.png"]

    def test_without_classes_there_is_the_use_of_the_code(self, tmp_path: Path) -> None:
        model, callback = Model(Categories(3)), ClusterAccuracy(views=4)
        model.num_classes, model.augmentation = None, RandomAffine()
        trainer = make_trainer(tmp_path, callback)
        (validated,) = trainer.validate(model, Data(), verbose=False)
        (tested,) = trainer.test(model, Data(), verbose=False)
        names_of_usage = {"categories_used", "code_entropy", "aggregate_entropy", "mutual_information", "marginal_kl"}
        assert {f"val/{name}" for name in names_of_usage} == validated.keys()
        assert {f"test/{name}" for name in names_of_usage} == tested.keys()
        assert validated["val/categories_used"] == 3
        assert callback.mapping is None
        assert not (tmp_path / "images").exists()

    def test_test_error_is_counted_with_the_mapping_of_the_whole_validation_split(self, tmp_path: Path) -> None:
        data, callback = Data(), ClusterAccuracy()
        trainer = make_trainer(tmp_path, callback, limit_val_batches=1)
        (logged,) = trainer.test(Model(Categories(3)), data, verbose=False)
        assert data.stages == ["test", "validate"]
        assert callback.mapping is not None
        assert callback.mapping.best_example.tolist() == [1, 2, 0]
        # Wrong are one grey image labelled 0 and one bright image labelled 2.
        assert logged["test/cluster_accuracy"] == pytest.approx(0.8)
        assert logged["test/cluster_error_percent"] == pytest.approx(20.0)
        assert logged["test/mapping_labels"] == 19
        assert "test/accuracy" not in logged
        assert names(tmp_path) == ["test_confusion-step0000000.png"]

    def test_more_categories_than_classes(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, ClusterAccuracy())
        (logged,) = trainer.validate(Model(Categories(5)), Data(num_labelled=30), verbose=False)
        assert logged["val/categories_used"] == 3
        assert not {"val/cluster_accuracy_hungarian", "val/accuracy"} & set(logged)

    def test_views_are_counted_beside_the_images(self, tmp_path: Path) -> None:
        """By their views dark and bright images change places; the mapping is that of the images."""
        model = Model(Categories(3))
        model.augmentation = RandomAffine()
        (logged,) = make_trainer(tmp_path, ClusterAccuracy(views=4)).test(model, Data(num_labelled=30), verbose=False)
        assert logged["test/cluster_accuracy"] == pytest.approx(0.8)
        # Of [1, 1, 2, 0, 0, 0, 2, 1, 2, 0] views call [0, 0, 2, 2, 1, 1, 1, 0, 2, 1].
        assert logged["test/cluster_accuracy_views"] == pytest.approx(0.2)
        assert logged["test/cluster_accuracy_majority_views"] == pytest.approx(0.2)
        assert logged["test/accuracy"] == pytest.approx(0.1)
        assert logged["test/accuracy_views"] == pytest.approx(0.3)  # categories [2, 2, 1, 1, 0, 0, 0, 2, 1, 0]

    def test_views_need_an_augmentation(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="views=4 and augmentation=None is not usable"):
            make_trainer(tmp_path, ClusterAccuracy(views=4)).validate(Model(Categories(3)), Data())

    def test_test_without_validation_data(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="datamodule=None"):
            make_trainer(tmp_path, ClusterAccuracy()).test(Model(Categories(3)), Data.test)

    def test_code_without_categories(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="prior=Plane is not usable"):
            make_trainer(tmp_path, ClusterAccuracy()).fit(Model(Plane()), Data())

    def test_unusable_arguments(self) -> None:
        with pytest.raises(ConfigurationError, match="every_n_epochs=0 is not usable: allowed are"):
            ClusterAccuracy(every_n_epochs=0)


class TestMarginalLikelihood:
    @pytest.mark.parametrize(("max_images", "count"), [(None, 10), (9, 9), (3, 3)])
    def test_test_numbers(self, tmp_path: Path, max_images: int | None, count: int) -> None:
        model = Model(Categories(3))
        trainer = make_trainer(tmp_path, MarginalLikelihood(max_images), ClusterAccuracy())
        (logged,) = trainer.test(model, Data(), verbose=False)
        values = -Data.test.image[:count].sum(dim=(1, 2, 3)).double()  # log_joint is normalised up to that term
        assert logged["test/log_prob"] == pytest.approx(float(values.mean()), rel=1e-6)
        assert logged["test/log_prob_stderr"] == pytest.approx(float(values.std() / math.sqrt(count)), rel=1e-6)
        assert logged["test/log_prob_images"] == count
        assert logged["test/bits_per_dim"] == pytest.approx(-float(values.mean()) / (16 * math.log(2)), rel=1e-6)
        if max_images is None:  # the stand-in's two classifiers agree
            assert logged["test/bayes_cluster_accuracy"] == logged["test/cluster_accuracy"]
            assert logged["test/bayes_cluster_accuracy_majority"] == logged["test/cluster_accuracy_majority"]

    def test_validation_only_where_asked_for(self, tmp_path: Path) -> None:
        model, data = Model(Categories(3)), Data()
        for splits in (["val"], ["test"]):
            (logged,) = make_trainer(tmp_path, MarginalLikelihood(splits=splits)).validate(model, data, verbose=False)
            assert ("val/log_prob" in logged) == (splits == ["val"])

    def test_infinitely_many_codes(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="prior=Plane is not usable"):
            make_trainer(tmp_path, MarginalLikelihood()).test(Model(Plane()), Data())

    @pytest.mark.parametrize(
        "arguments", [{"max_images": 0}, {"splits": ()}, {"splits": "test"}, {"splits": ["train"]}]
    )
    def test_unusable_arguments(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match="is not usable: allowed are"):
            MarginalLikelihood(**arguments)


class NamedData(Data):
    """The test images have file names and classes with awkward ones."""

    class_names = ("zero, or none", 'the "one"', "two$")

    def image_name(self, source: str, row: int) -> str | None:
        return f"folder/{row:02d}.png" if source == "test" else None


class TestPredictionTable:
    def rows(self, path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def test_tables_are_what_was_predicted(self, tmp_path: Path) -> None:
        model, data = Model(Categories(4)), Data()
        predictions = make_trainer(tmp_path, PredictionTable()).predict(model, data)
        assert predictions is not None
        folder = tmp_path / "predictions"
        assert sorted(path.name for path in folder.iterdir()) == ["test.csv", "test.npz", "val.csv", "val.npz"]
        for split, batches in zip(("val", "test"), predictions, strict=True):
            joined: dict[str, Tensor] = {key: torch.cat([b[key] for b in batches]) for key in batches[0]}  # type: ignore
            rows = self.rows(folder / f"{split}.csv")
            assert list(rows[0]) == ["row", "category", "category_probability", "label"]
            assert [int(row["row"]) for row in rows] == joined["index"].tolist()
            assert [int(row["category"]) for row in rows] == joined["probabilities"].argmax(1).tolist()
            assert [int(row["label"] or -1) for row in rows] == joined["label"].tolist()
            shown = torch.tensor([float(row["category_probability"]) for row in rows])
            assert (shown - joined["probabilities"].amax(1)).abs().max() <= 5.1e-5
            arrays = np.load(folder / f"{split}.npz")
            for name, key in [("row", "index"), ("label", "label"), ("code", "code"), ("probabilities",) * 2]:
                assert np.array_equal(arrays[name], joined[key].numpy())

    def test_classes_have_names_and_the_probability_of_all_their_categories(self, tmp_path: Path) -> None:
        classes = CategoryClasses((2, 0, -1, 2), NamedData.class_names)
        trainer = make_trainer(tmp_path, PredictionTable(classes=classes))
        (_, (batch, _)) = trainer.predict(Model(Categories(4)), NamedData())  # type: ignore[misc]
        rows = self.rows(tmp_path / "predictions" / "test.csv")
        assert list(rows[0])[:4] == ["file", "row", "class", "class_probability"]
        assert rows[3]["file"] == "folder/03.png"
        names = ["two$", "zero, or none", "", "two$"]
        assert [row["class"] for row in rows] == [names[int(row["category"])] for row in rows]
        assert {row["category"] for row in rows} == {"0", "2", "3"}
        sums = batch["probabilities"][:, [0, 3]].sum(1)
        for row, both in zip(rows[:8], sums.tolist(), strict=True):
            if row["class"] == "two$":
                assert float(row["class_probability"]) == pytest.approx(both, abs=5.1e-5)
            if not row["class"]:
                assert not row["class_probability"]
        assert rows[0]["label"] == 'the "one"'
        assert "file" not in self.rows(tmp_path / "predictions" / "val.csv")[0]

    def test_labels_have_the_names_of_the_data_where_no_category_has_a_class(self, tmp_path: Path) -> None:
        make_trainer(tmp_path, PredictionTable()).predict(Model(Categories(4)), NamedData(), return_predictions=False)
        assert self.rows(tmp_path / "predictions" / "test.csv")[0]["label"] == 'the "one"'

    def test_what_a_trainer_found_last_names_the_classes(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, ClusterAccuracy(), PredictionTable())
        model, data = Model(Categories(3)), Data()
        trainer.validate(model, data, verbose=False)
        trainer.predict(model, data, return_predictions=False)
        rows = self.rows(tmp_path / "predictions" / "test.csv")
        assert [row["class"] for row in rows] == [{"0": "1", "1": "2", "2": "0"}[row["category"]] for row in rows]

    def test_with_labels_in_training_a_category_is_its_class_before_any_validation(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, ClusterAccuracy(), PredictionTable())
        trainer.predict(Model(Categories(3)), Data(num_labelled=3), return_predictions=False)
        rows = self.rows(tmp_path / "predictions" / "test.csv")
        assert [row["class"] for row in rows] == [row["category"] for row in rows]

    def test_one_table_of_all_splits(self, tmp_path: Path) -> None:
        table = PredictionTable(out=str(tmp_path / "all.csv"))
        make_trainer(tmp_path, table).predict(Model(Plane()), NamedData(), return_predictions=False)
        assert table.written == [tmp_path / "all.csv"]
        assert {path.name for path in tmp_path.iterdir()} == {"all.csv", "all.npz"}
        header, *rows = (tmp_path / "all.csv").read_text().splitlines()
        assert header == "split,row,label"
        assert rows[0] == 'val,0,"the ""one"""'
        assert rows[19] == "val,19,"  # no label known
        assert rows[20] == 'test,0,"the ""one"""'
        assert len(rows) == 30
        assert np.load(tmp_path / "all.npz")["code"].shape == (30, 2)

    def test_parquet(self, tmp_path: Path) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            with pytest.raises(ConfigurationError, match="not usable without pyarrow"):
                PredictionTable(out=str(tmp_path / "all.parquet"))
            return
        import pyarrow.parquet

        table = PredictionTable(str(tmp_path / "all.parquet"), CategoryClasses((1, 0, -1), ("a", "b", "c")))
        make_trainer(tmp_path, table).predict(Model(Categories(3)), Data(), return_predictions=False)
        read = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
        assert len(read) == 30
        assert {row["class"] for row in read} == {"a", "b", None}
        assert read[0]["class"] == "b"
        assert read[0]["label"] == "b"

    def test_a_run_that_fails_leaves_no_table(self, tmp_path: Path) -> None:
        class Failing(Model):
            def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
                if batch_idx == 1:
                    raise RuntimeError("boom")
                return super().predict_step(batch, batch_idx, dataloader_idx)

        with pytest.raises(RuntimeError, match="boom"):
            make_trainer(tmp_path, PredictionTable()).predict(Failing(Plane()), Data())
        assert not list(tmp_path.rglob("*.csv"))

    def test_a_full_disk_is_one_line_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"val\.csv cannot be written: No space left on device$"):
            make_trainer(tmp_path, PredictionTable()).predict(Model(Plane()), Data(), return_predictions=False)
        assert not list((tmp_path / "predictions").iterdir())

    def test_unusable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="predict_split_names"):
            make_trainer(tmp_path, PredictionTable()).predict(Model(Plane()), [Data.val])
        with pytest.raises(ConfigurationError, match=r"allowed are names that end in \.csv or \.parquet"):
            PredictionTable(out="table.txt")
        with pytest.raises(ConfigurationError, match="there is no folder no/such"):
            PredictionTable(out="no/such/table.csv")


class TestFigures:
    def pixels(self, figure: Figure, folder: Path) -> np.ndarray:
        figure.savefig(folder / "figure.png", dpi=figure.dpi)
        return matplotlib.image.imread(folder / "figure.png")[:, :, :3]

    @pytest.mark.parametrize("name", ["$x", "$", "a_{$}", r"\\frac$$", "<b>", "_hidden"])
    def test_names_are_shown_as_they_are(self, tmp_path: Path, name: str) -> None:
        """Half a formula is refused by the parser of formulas, a whole one would be set as one."""
        images = torch.zeros(1, 1, 1, 4, 4)
        drawn = [
            figures.image_rows(images, [name], title=name),
            figures.global_local([images[0]], [name]),
            figures.confusion_matrix(torch.eye(2).long(), name, [name, "b"]),
            figures.code_scatter(torch.zeros(2, 2), torch.tensor([0, 1]), title=name),
            figures.code_scatter(torch.zeros(2, 2), torch.tensor([-1, 1]), names=["b", name]),
        ]
        for figure in drawn:
            self.pixels(figure, tmp_path)
            texts = [text for text in figure.findobj(Text) if text.get_text() == name]
            assert texts
            assert not any(text.get_parse_math() for text in texts)

    def test_images_are_drawn_pixel_by_pixel(self, tmp_path: Path) -> None:
        images = torch.randint(0, 256, (3, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
        drawn = self.pixels(figures.image_rows(images, ["a", "b", "c"], title="title"), tmp_path)
        for row in range(3):
            for column in range(2):  # 8x8 enlarged 7 times, gaps of 2, grid at the bottom right
                bottom, right = drawn.shape[0] - (2 - row) * 58, drawn.shape[1] - (1 - column) * 58
                tile = drawn[bottom - 56 : bottom, right - 56 : right]
                expected = images[row, column].movedim(0, -1).numpy().repeat(7, 0).repeat(7, 1)
                np.testing.assert_allclose(tile, expected, atol=1e-6)

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_reconstructions_stand_right_of_their_inputs(self, tmp_path: Path, channels: int) -> None:
        inputs, outputs = torch.zeros(3, channels, 28, 28), torch.ones(3, channels, 28, 28)
        drawn = self.pixels(figures.reconstructions(inputs, outputs), tmp_path)
        assert drawn.shape == (2 * 56 + 2, 4 * 56 + 2 * 2 + 10, 3)
        assert (drawn[:56, :56] == 0).all()
        assert (drawn[:56, 58:114] == 1).all()
        assert (drawn[:56, 124:180] == 0).all()

    def test_manifold_is_row_major(self, tmp_path: Path) -> None:
        images = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 1, 8, 8)
        drawn = self.pixels(figures.manifold(images, 2), tmp_path)
        corners = [drawn[0, 0, 0], drawn[0, -1, 0], drawn[-1, 0, 0], drawn[-1, -1, 0]]
        np.testing.assert_allclose(corners, [0, 1 / 3, 2 / 3, 1], atol=1e-6)

    def test_confusion_matrix_shows_the_counts(self) -> None:
        figure = figures.confusion_matrix(torch.tensor([[3, 0], [1, 7]]))
        assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "7"]


class TestLatentScatter:
    def drawn(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, prior: Any, **options: Any
    ) -> list[tuple[Tensor, ...]]:
        seen: list[tuple[Tensor, ...]] = []
        scatter = figures.code_scatter

        def spy(*parts: Tensor, **options: Any) -> Figure:
            seen.append(parts)
            self.figure = scatter(*parts, **options)
            return self.figure

        monkeypatch.setattr(figures, "code_scatter", spy)
        trainer = make_trainer(folder, LatentScatter(**options))
        trainer.validate(Model(prior), NamedData(), verbose=False)
        return seen

    def test_codes_labels_and_prior(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(3)
        ((codes, labels, prior),) = self.drawn(tmp_path, monkeypatch, Plane())
        assert torch.equal(codes, Data.val.image[:, 0, 0, :2].double())
        assert labels.tolist() == Data.val.label.tolist()
        assert prior.shape == codes.shape
        assert names(tmp_path) == ["codes-step0000000.png"]
        words = [text.get_text() for text in self.figure.axes[0].get_legend().get_texts()]
        assert words == ["prior", *NamedData.class_names, "unknown"]
        state = torch.get_rng_state()  # a prior that draws from the global stream does not disturb it
        torch.manual_seed(3)
        assert torch.equal(state, torch.get_rng_state())

    def test_limits_and_dimensions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ((codes, labels, _),) = self.drawn(tmp_path, monkeypatch, Categories(4), max_images=10, dimensions=[3, 1])
        expected = Model(Categories(4)).encode(Data.val.image)[:10, [3, 1]]
        assert torch.equal(codes, expected.double())
        assert len(labels) == 10

    def test_unusable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for options in ({"dimensions": [0]}, {"dimensions": [-1, 0]}, {"max_images": 0}, {"every_n_epochs": 0}):
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                LatentScatter(**options)
        with pytest.raises(ConfigurationError, match=r"dimensions=\[0, 2\] is not usable with prior=Plane"):
            self.drawn(tmp_path, monkeypatch, Plane(), dimensions=[0, 2])
