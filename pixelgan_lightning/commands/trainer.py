"""``pixelgan fit``, ``validate``, ``test`` and ``predict``: model, data and trainer from a configuration."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonargparse
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from pixelgan_lightning import pretrained
from pixelgan_lightning.callbacks import PredictionTable, StopOnSignal
from pixelgan_lightning.commands.screen import NarrowProgressBar, results_table
from pixelgan_lightning.component import construct
from pixelgan_lightning.configuration.of_checkpoint import Resolved, resolved
from pixelgan_lightning.configuration.schema import Schema
from pixelgan_lightning.configuration.settings import read
from pixelgan_lightning.datamodules.unseen import READING
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.checkpoint_io import AtomicCheckpointIO
from pixelgan_lightning.files.places import without_places
from pixelgan_lightning.files.run_folder import CHECKPOINTS, CONFIG, VARIABLE, first_free, place_loggers, run_folder
from pixelgan_lightning.files.weights import warm_start
from pixelgan_lightning.likelihoods import Likelihood
from pixelgan_lightning.messages import is_first_process, reason, say
from pixelgan_lightning.numerics.precision import require_usable_precision
from pixelgan_lightning.training.loggers import RunWandbLogger
from pixelgan_lightning.whole_file import whole_file

COMMANDS = {
    "fit": "Train a model, or go on with a run.",
    "validate": "Measure on the validation images.",
    "test": "Measure on the test images: errors, likelihoods, pictures.",
    "predict": "Write a table of classes and codes, of the run's images or of others.",
}
"""The commands and what they do."""

NOT_HERE = {
    "gradient_clip_val": "model.phases.<phase>.clip_norm, for example --model.phases.reconstruction.clip_norm",
    "gradient_clip_algorithm": "model.phases.<phase>.clip_norm",
    "accumulate_grad_batches": "a larger batch_size: every phase moves its parameters with every batch",
    "sync_batchnorm": "false: pixelgan_lightning.numerics.normalization.BatchNorm is synchronised already",
    "model_registry": "null: checkpoints stay in the run's folder (with W&B: log_model of its logger)",
}
"""Arguments of the trainer that each phase has for itself, or that have no meaning, and what to say instead."""


def run(command: str, args: Sequence[str]) -> None:
    """Carry out ``command``.

    Raises:
        ConfigurationError: what was asked for cannot be done.
    """
    said, schema = read(args), Schema(command)
    found = resolved(command, said, schema)
    if said.print_config:
        print(schema.parser.dump(found.config, skip_unset=False), end="")
        return
    config = found.config
    require_usable_precision(config.trainer.precision)
    _require_settings_of_phases(config.trainer)
    if command == "predict" and config.images is not None:
        config.data = _unseen(config, found)
    written = config.clone()  # as it was given
    for name in ("run_dir", "ckpt_path", "allow", "images", "out"):
        written.pop(name, None)
    with TemporaryDirectory(prefix="pixelgan-") as scratch:
        folder = Path(scratch) if config.trainer.fast_dev_run else run_folder(config, command)
        _place(config, folder, command)
        pl.seed_everything(config.seed_everything, workers=True, verbose=False)
        model, data, trainer = _objects(command, found, schema, SaveRunConfig(schema.parser, written))
        if not config.trainer.fast_dev_run:
            say(f"run folder: {folder}")
        if command != "fit" and found.stored is None and config.init_from is None:
            say(f"{command} without --ckpt_path: the model has its initial weights")
        if command != "fit" and found.stored is not None:
            say(f"weights: {found.stored.weights}")
        _go(command, trainer, model, data, config.ckpt_path)
        _say_what_there_is(command, trainer, folder)


class SaveRunConfig(Callback):
    """Writes the whole configuration of a fit into the run's folder, once training starts, and into checkpoints."""

    def __init__(self, parser: jsonargparse.ArgumentParser, config: jsonargparse.Namespace) -> None:
        self.text = parser.dump(config, skip_unset=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        with whole_file(folder / first_free(folder, Path(CONFIG).stem, Path(CONFIG).suffix)) as unfinished:
            unfinished.write_text(self.text)
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                logger.log_hyperparams(without_places(yaml.safe_load(self.text)))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["pixelgan_lightning_config"] = self.text


class LogEachEpoch(Callback):
    """Logs at least once an epoch: 50 batches, Lightning's interval, may be more than small data have."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Said before training starts, of the interval that is changed below.
        warnings.filterwarnings("ignore", "The number of training batches", PossibleUserWarning)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        interval = min(trainer.log_every_n_steps, trainer.num_training_batches)  # type: ignore[attr-defined]
        trainer.log_every_n_steps = max(1, int(interval))  # type: ignore[attr-defined]


def _require_settings_of_phases(trainer: Any) -> None:
    """What each phase has of its own: Lightning's message would say to switch to automatic optimization.

    Raises:
        ConfigurationError: one of Lightning's settings for all.
    """
    for name, other in NOT_HERE.items():
        if trainer[name] != inspect.signature(pl.Trainer).parameters[name].default:
            raise ConfigurationError(f"trainer.{name}={trainer[name]} is not usable: allowed is {other}")


def _unseen(config: Any, found: Resolved) -> Any:
    """The data of ``--images``: read as the run read its own, and made into what the checkpoint's model takes."""
    if found.stored is None:
        raise ConfigurationError(f"images={config.images} without ckpt_path is not usable: name a checkpoint")
    description, classes = found.stored.description, found.stored.classes
    of_run = config.data.get("init_args") or {}
    arguments = {
        "path": config.images,
        "image_shape": tuple(description["image_shape"]),
        "num_classes": description["num_classes"],
        "class_names": None if classes is None else classes.names,
        "levels": construct(description["likelihood"], Likelihood).levels,
        **{name: of_run[name] for name in READING if name in of_run},
    }
    return jsonargparse.Namespace(
        class_path="pixelgan_lightning.datamodules.unseen.UnseenImages",
        init_args=jsonargparse.Namespace(**arguments),
    )


def _place(config: Any, folder: Path, command: str) -> None:
    """Let everything that is written go into the run's folder."""
    os.environ[VARIABLE] = str(folder)
    config.run_dir = config.trainer.default_root_dir = str(folder)
    if config.checkpoint.dirpath is None:
        config.checkpoint.dirpath = str(folder / CHECKPOINTS)
    place_loggers(config.trainer.logger, folder, command, _tags(config))


def _tags(config: Any) -> list[str]:
    """Words to find a run by: its data, its prior and how many labels it has."""
    data = config.data.get("init_args") or {}
    labels = data.get("num_labelled")
    names = [config.data.class_path, config.model.prior.class_path]
    short = [name.rpartition(".")[2].removesuffix("DataModule") for name in names]
    return [*short, f"{labels} labels" if labels else "no labels"]


def _objects(
    command: str, found: Resolved, schema: Schema, save_config: Callback
) -> tuple[pl.LightningModule, pl.LightningDataModule, pl.Trainer]:
    config = found.config
    try:
        made = schema.parser.instantiate(config)
        trainer = _trainer(command, found, made, save_config)
    except (ValueError, TypeError) as error:  # what jsonargparse, and the trainer, make of an unusable value
        raise ConfigurationError(reason(error) or " ".join(str(error).split())) from error
    model = made.model
    theirs = None if found.stored is None else found.stored.description.get("image_shape")
    mine = list(model.image_shape)
    if theirs is not None and theirs != mine:
        raise ConfigurationError(f"data with image_shape={mine} is not usable: the checkpoint is for {theirs}")
    if config.init_from is not None:
        ships = config.init_from in pretrained.names() and not Path(config.init_from).exists()
        warm_start(model, pretrained.folder(config.init_from) if ships else config.init_from)
    if config.compile_decoder:
        model.decoder.compile()  # in place: the keys of the state dict stay as they are
    model.cuda_graphs = config.cuda_graphs
    return model, made.data, trainer


def _trainer(command: str, found: Resolved, made: Any, save_config: Callback) -> pl.Trainer:
    config = dict(made.trainer)
    callbacks = config.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    extra: list[Callback] = []
    if config.get("enable_checkpointing") is not False:
        extra.append(made.checkpoint)
        if command == "fit" and not any(isinstance(c, StopOnSignal) for c in callbacks):
            extra.append(StopOnSignal())
    if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
        extra.append(NarrowProgressBar())
    if command == "fit":
        extra.append(save_config)
        if config.get("log_every_n_steps") is None:
            extra.append(LogEachEpoch())
    if command == "predict" and not any(isinstance(c, PredictionTable) for c in callbacks):
        extra.append(PredictionTable(made.out, None if found.stored is None else found.stored.classes))
    plugins = config.get("plugins") or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        config["plugins"] = [*plugins, AtomicCheckpointIO()]
    return pl.Trainer(**{**config, "callbacks": [*callbacks, *extra]})


def _go(command: str, trainer: pl.Trainer, model: Any, data: Any, checkpoint: str | None) -> None:
    options: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True}
    if command == "predict":
        options["return_predictions"] = False  # a table on disk, not tensors in memory
    elif command != "fit":
        options["verbose"] = False  # the results are printed below
    getattr(trainer, command)(model, **options)


def _say_what_there_is(command: str, trainer: pl.Trainer, folder: Path) -> None:
    last = folder / CHECKPOINTS / "last.ckpt"
    if command == "fit" and last.exists() and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        say(f"next: pixelgan test --ckpt_path {last}")
    if command in ("validate", "test") and is_first_process():
        results = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
        if command == "test":
            with whole_file(folder / "results.json") as unfinished:
                unfinished.write_text(json.dumps(results, indent=2) + "\n")
        results_table(f"{command} results of {folder}", results)
        for picture in sorted((folder / "images").glob(f"**/{'val' if command == 'validate' else command}_*.png")):
            say(f"picture: {picture}")
    if command == "predict":
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            for table in callback.written if isinstance(callback, PredictionTable) else ():
                say(f"table: {table}, codes: {table.with_suffix('.npz')}")


__all__ = ["COMMANDS", "SaveRunConfig", "run"]
