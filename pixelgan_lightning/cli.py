"""The command line: ``pixelgan fit | validate | test | predict``, and the commands of :mod:`.commands`.

It is LightningCLI with four additions: shapes flow from the data to the model, every run has a folder of its own, a
checkpoint brings the configuration of its run along, and unusable values end in one line instead of a traceback.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import jsonargparse
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, ProgressBar, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

import pixelgan_lightning.datamodules  # noqa: F401  (imported so that short class names resolve in YAML)
from pixelgan_lightning import commands, pretrained
from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.callbacks import PredictionTable, RunCheckpoint, StopOnSignal
from pixelgan_lightning.component import Component, construct
from pixelgan_lightning.datamodules.unseen import READING
from pixelgan_lightning.decoders import Decoder
from pixelgan_lightning.discriminators import Discriminator
from pixelgan_lightning.encoders import Encoder
from pixelgan_lightning.errors import ConfigurationError, RunError
from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.files.checkpoint_io import AtomicCheckpointIO
from pixelgan_lightning.files.places import without_places
from pixelgan_lightning.files.run_config import Taken, taken
from pixelgan_lightning.files.run_folder import (
    CHECKPOINTS,
    CONFIG,
    VARIABLE,
    checkpoint_file,
    first_free,
    place_loggers,
    run_folder,
    run_folder_scope,
    run_of,
)
from pixelgan_lightning.files.weights import read_checkpoint, warm_start
from pixelgan_lightning.likelihoods import Likelihood
from pixelgan_lightning.messages import one_line, quiet_libraries, reason, say
from pixelgan_lightning.model import THE_PAPERS, PixelGAN
from pixelgan_lightning.numerics.precision import fast_training, require_usable_precision
from pixelgan_lightning.phases import Phase
from pixelgan_lightning.posteriors import Posterior
from pixelgan_lightning.priors import Prior
from pixelgan_lightning.training.loggers import RunWandbLogger
from pixelgan_lightning.training.memory import reuse_memory
from pixelgan_lightning.trust import look_into_working_folder, named_modules, require_trusted
from pixelgan_lightning.version import __version__

COMPONENTS = {
    "augmentation": Augmentation,
    "prior": Prior,
    "posterior": Posterior,
    "encoder": Encoder,
    "decoder": Decoder,
    "likelihood": Likelihood,
    "discriminator": Discriminator,
}
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "torchmetrics")
FROM_DATA = ("image_shape", "num_classes")  # model arguments that the data decides
AT_RUNTIME = ("seed",)  # model arguments that a checkpoint does not decide


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with an argument, and takes options by their whole names only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser inside a parser, whose caller reports
            super().error(message, ex)
        base_classes: dict[str, type] = {f"model.{name}": base for name, base in COMPONENTS.items()}
        base_classes |= {"data": pl.LightningDataModule, "trainer.callbacks": Callback, "trainer.logger": Logger}
        hint = "" if "Parser key" in message else " (see pixelgan --help, pixelgan fit --help)"
        self.exit(2, f"error: {one_line(message, base_classes)}{hint}\n")


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole resolved configuration of a fit into the run's folder, once training starts."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing yet: a run that is refused leaves no configuration behind."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        name = first_free(folder, Path(CONFIG).stem, Path(CONFIG).suffix)
        self.parser.save(self.config, folder / name, skip_unset=False, overwrite=True, multifile=False)
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                logger.log_hyperparams(without_places(yaml.safe_load((folder / name).read_text())))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["pixelgan_lightning_config"] = self.parser.dump(self.config, skip_unset=False)


class PixelGANCLI(LightningCLI):
    """LightningCLI for :class:`PixelGAN` and any data module."""

    def __init__(self, args: list[str]) -> None:
        self._first = args[0] if args else ""
        self._parsers: list[LightningArgumentParser] = []  # of the commands; one where the command is known
        super().__init__(
            PixelGAN,
            pl.LightningDataModule,
            parser_class=Parser,
            subclass_mode_data=True,
            save_config_callback=None,  # added below, with the configuration as it was given
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the model stores its own description, with or without command line
            parser_kwargs={
                "prog": "pixelgan",
                "description": "PixelGAN autoencoders. Commands around a trained model, each with --help of its own: "
                + ", ".join(commands.COMMANDS),
            },
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for, or all: to build the parsers of all takes longer than to read the arguments."""
        known = LightningCLI.subcommands()
        return {self._first: known[self._first]} if self._first in known else known

    # ------------------------------------------------------------------------------------------------ the arguments

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Key of all random draws.")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """In Python the model takes plain dictionaries too; here only classes, so that their arguments are checked."""
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        parser.add_class_arguments(PixelGAN, "model", skip={*COMPONENTS, "phases"})
        for name, base in COMPONENTS.items():
            parser.add_subclass_arguments(base, f"model.{name}")
        parser.add_argument("--model.phases", type=dict[str, Phase], help="By name, the losses of a step, in order.")
        parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run. Default: a new one in runs/, or that of --ckpt_path.",
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Start from the weights in a checkpoint or exported folder, or of a shipped model; optimizers "
            "are fresh, layers of other shapes keep their initial values.",
        )
        parser.add_argument(
            "--compile_decoder",
            type=bool,
            default=False,
            help="torch.compile the decoder: half a minute once, then faster steps. On a CPU in full precision the "
            "layers are written out by hand, which is faster, and stay as they are.",
        )
        parser.add_argument(
            "--cuda_graphs",
            type=bool,
            default=False,
            help="On one GPU, run each training step as a CUDA graph: no waiting for the host, more memory.",
        )
        parser.add_argument(
            "--allow",
            type=str | None,
            default=None,
            metavar="MODULE,...",
            help="Modules outside of this package whose classes a checkpoint may name; their code runs.",
        )
        if self._first == "predict":
            parser.add_argument(
                "--images",
                type=str | None,
                default=None,
                help="Pictures not seen in training: a folder, or .npz, .pt or .csv. Default: the run's data.",
            )
            parser.add_argument(
                "--out",
                type=str | None,
                default=None,
                help="One table of all images, .csv or .parquet, with their codes beside it. Default: a .csv for each "
                "split in predictions/ of the run's folder.",
            )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
                "data": {"class_path": "DigitsDataModule"},
                "model.prior": {"class_path": "Categorical"},
                "model.encoder": {"class_path": "ConvEncoder"},
                "model.decoder": {"class_path": "GatedPixelCNN"},
                "model.likelihood": {"class_path": "Bernoulli"},
                "model.discriminator": {"class_path": "MLPDiscriminator"},
                "model.phases": {name: {"class_path": phase.__name__} for name, phase in THE_PAPERS.items()},
            }
        )
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

        self._parsers.append(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Arguments as they are typed, and what a checkpoint among them brings along."""
        if self._first == "predict":
            self._parsers[-1].set_defaults({"return_predictions": False})  # a table on disk, not tensors in memory
        if self._first == "test":
            self._parsers[-1].set_defaults({"verbose": False})  # the table of results is printed below
        self._parse(parser, args)
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise ConfigurationError(f"seed_everything={seed} is not usable: allowed are 0 to {2**32 - 1}")

    def _parse(self, parser: LightningArgumentParser, args: Any) -> None:
        """The model is that of the checkpoint: ``fit`` refuses what is said otherwise, other commands name it."""
        _require_class_first(args)
        args = _with_packaged_configs(args)
        _require_yaml(args)
        allowed = _modules_of_the_user(args)
        self._stored: dict[str, Any] = {}
        self._classes: CategoryClasses | None = None
        checkpoint = _option(args, "--ckpt_path")
        if checkpoint is None:
            self.config = parser.parse_args(args)
            if self.config[self.config.subcommand].ckpt_path is not None:
                raise ConfigurationError("ckpt_path in a configuration file is not usable: give it on the command line")
            return
        path = checkpoint_file(checkpoint, _option(args, "--run_dir"))
        read = read_checkpoint(path)
        self._stored, self._classes = read.description, read.classes
        run = _of_run(read.run_config, path, allowed, not _names_data(args))
        modules = {*allowed, *run.modules, *_require_trusted_model(read.description, path, allowed)}
        # Beyond what was looked at above, nothing that a file says is imported.
        jsonargparse.set_parsing_settings(
            import_path_denylist=["*"], import_path_allowlist=["pixelgan_lightning", *LIGHTNING, *sorted(modules)]
        )
        try:
            for subparser in self._parsers:
                subparser.set_defaults(_defaults(self._stored))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"ckpt_path={path} is not usable: it describes no model ({error})") from error
        # With what is stored as default, a difference is what somebody asked for.
        with TemporaryDirectory(prefix="pixelgan-") as folder:
            config = Path(folder) / CONFIG
            config.write_text(yaml.safe_dump(run.content))
            of_run = ["--config", str(config)]
            self.config = parser.parse_args([args[0], *of_run, *args[1:]])
            command = self.config.subcommand
            given = self.config[command]
            if command == "fit":
                self._require_same_seed(given.seed_everything)
                before = parser.parse_args([command, *of_run])[command]
                for key, mine, theirs in _differences(given.data.as_dict(), before.data.as_dict(), "data"):
                    say(f"{key}: {mine!r} from here on, the run had {theirs!r}")
        decided = parser.parse_args([command])[command].model
        decided.seed = given.model.seed
        if _option(args, "--init_from") is not None:
            raise ConfigurationError(
                f"init_from={given.init_from} with ckpt_path is not usable: allowed is one of them"
            )
        given.init_from = None  # the run's configuration says how it began
        differences = _differences(given.model.as_dict(), decided.as_dict(), "model")
        if command == "fit" and differences:
            key, mine, theirs = differences[0]
            raise ConfigurationError(
                f"{key}={mine!r} does not continue a run with {theirs!r}: allowed is the same (for a new run from its "
                "weights --init_from in place of --ckpt_path)"
            )
        for key, mine, theirs in differences:
            say(f"{key}: {mine!r} is not used, the checkpoint has {theirs!r}")
        given.model, given.ckpt_path = decided, str(path)

    def _require_same_seed(self, given: int) -> None:
        """A continued run draws what the run would have drawn."""
        before = self._stored.get("seed", given)
        if given != before:
            raise ConfigurationError(
                f"seed_everything={given} does not continue a run with seed_everything={before}: allowed is the same"
            )

    def _parse_ckpt_path(self) -> None:
        """Done above."""

    # -------------------------------------------------------------------------------------------------- the run folder

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        require_usable_precision(config.trainer.precision)
        _require_settings_of_phases(config)
        if self.subcommand == "predict" and config.images is not None:
            config.data = self._unseen(config)
        given = config.clone()
        for key in ("run_dir", "ckpt_path", "config", "allow"):
            given.pop(key, None)
        self._save_config = SaveRunConfig(self._parsers[-1], given)
        if config.trainer.fast_dev_run:
            self._scratch = TemporaryDirectory(prefix="pixelgan-")  # vanishes with this object
            self.run_dir = Path(self._scratch.name)
        else:
            self.run_dir = run_folder(config, str(self.subcommand))
        os.environ[VARIABLE] = str(self.run_dir)
        config.run_dir = config.trainer.default_root_dir = str(self.run_dir)
        if config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(self.run_dir / CHECKPOINTS)
        place_loggers(config.trainer.logger, self.run_dir, str(self.subcommand), _tags(config))

    def _unseen(self, config: Any) -> Any:
        """The data of ``--images``: read as the run read its own, and made into what the checkpoint's model takes."""
        if not self._stored:
            raise ConfigurationError(f"images={config.images} without ckpt_path is not usable: name a checkpoint")
        of_run = config.data.get("init_args") or {}
        likelihood = construct(self._stored["likelihood"], Likelihood)
        arguments = {
            "path": config.images,
            "image_shape": tuple(self._stored["image_shape"]),
            "num_classes": self._stored["num_classes"],
            "class_names": None if self._classes is None else self._classes.names,
            "levels": likelihood.levels,
            **{name: of_run[name] for name in READING if name in of_run},
        }
        return jsonargparse.Namespace(
            class_path="pixelgan_lightning.datamodules.unseen.UnseenImages",
            init_args=jsonargparse.Namespace(**arguments),
        )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:  # what jsonargparse, and the trainer, make of an unusable value
            raise ConfigurationError(reason(error) or one_line(str(error), {})) from error
        theirs, mine = self._stored.get("image_shape"), list(self.model.image_shape)
        if theirs is not None and theirs != mine:
            raise ConfigurationError(f"data with image_shape={mine} is not usable: the checkpoint is for {theirs}")
        config = self.config[self.subcommand]
        if config.init_from is not None:
            ships = config.init_from in pretrained.names() and not Path(config.init_from).exists()
            warm_start(self.model, pretrained.folder(config.init_from) if ships else config.init_from)
        if config.compile_decoder:
            self.model.decoder.compile()  # in place: the keys of the state dict stay as they are
        self.model.cuda_graphs = config.cuda_graphs

    def after_instantiate_classes(self) -> None:
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            say(f"run folder: {self.run_dir}")
        if self.subcommand != "fit" and not self._stored and self.config[self.subcommand].init_from is None:
            say(f"{self.subcommand} without --ckpt_path: the model has its initial weights")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        given = self.config_init[self.subcommand]
        config = {**given.trainer, **kwargs}
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        extra: list[Callback] = []
        if config.get("enable_checkpointing") is not False:
            extra.append(given.checkpoint)
            if self.subcommand == "fit" and not any(isinstance(c, StopOnSignal) for c in callbacks):
                extra.append(StopOnSignal())
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            extra.append(RichProgressBar())
        if self.subcommand == "fit":
            extra.append(self._save_config)
        if self.subcommand == "predict" and not any(isinstance(c, PredictionTable) for c in callbacks):
            extra.append(PredictionTable(given.out, self._classes))
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            config["plugins"] = [*plugins, AtomicCheckpointIO()]
        return pl.Trainer(**{**config, "callbacks": [*callbacks, *extra]})

    # ------------------------------------------------------------------------------------------------- what is printed

    def after_fit(self) -> None:
        last = self.run_dir / CHECKPOINTS / "last.ckpt"
        if last.exists() and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            say(f"next: pixelgan test --ckpt_path {last}")

    def after_test(self) -> None:
        """Print the results and where the pictures are; keep the numbers in ``results.json``."""
        if not self.trainer.is_global_zero:
            return
        results = {k: v.item() for k, v in sorted(self.trainer.callback_metrics.items())}
        (self.run_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        table = Table(title=f"test results of {self.run_dir}")
        table.add_column("quantity")
        table.add_column("value", justify="right")
        for name, value in results.items():
            table.add_row(name, f"{value:.4f}")
        Console().print(table)
        for picture in sorted((self.run_dir / "images").glob("**/test_*.png")):
            say(f"picture: {picture}")

    def after_predict(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            for table in callback.written if isinstance(callback, PredictionTable) else ():
                say(f"table: {table}, codes: {table.with_suffix('.npz')}")


# ------------------------------------------------------------------------------------------------------------- helpers


def _tags(config: Any) -> list[str]:
    """Words to find a run by: its data, its prior and how many labels it has."""
    data = config.data.get("init_args") or {}
    labels = data.get("num_labelled")
    names = [config.data.class_path, config.model.prior.class_path]
    short = [name.rpartition(".")[2].removesuffix("DataModule") for name in names]
    return [*short, f"{labels} labels" if labels else "no labels"]


def _defaults(description: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint decides about the model, by key of the command line."""
    defaults = {}
    for name, value in description.items():
        if name == "seed":
            defaults["seed_everything"] = value  # which the command line passes on to the model
        elif name not in (*FROM_DATA, *AT_RUNTIME):
            defaults[f"model.{name}"] = value
    return defaults


def _differences(given: Any, stored: Any, key: str) -> list[tuple[str, Any, Any]]:
    """Leaves in which ``given`` differs from ``stored``: ``(key, given, stored)``; a class, where these differ."""
    if given is None and isinstance(stored, dict):  # nothing was asked for
        return []
    if not (isinstance(given, dict) and isinstance(stored, dict)):
        given, stored = (list(value) if isinstance(value, tuple) else value for value in (given, stored))
        return [] if given == stored else [(key, given, stored)]
    if "class_path" in stored and not _same_class(given["class_path"], stored["class_path"]):
        return [(key, given["class_path"], stored["class_path"])]
    return [d for k in stored if k != "class_path" for d in _differences(given.get(k), stored[k], f"{key}.{k}")]


def _same_class(*class_paths: str) -> bool:
    """A class may be named by the module that defines it or by a package that exports it."""
    found = [path.rpartition(".") for path in class_paths]
    return len({getattr(importlib.import_module(module), name) for module, _, name in found}) == 1


def _forget_former_class(_: Any, former: Any, value: Any) -> None:
    """Drop the arguments of a class where another class takes its place.

    Takes the place of a function of jsonargparse, which keeps the arguments that the new class has as well, even mere
    defaults of the former: after the data set's default ``binarization: none``, MNIST would not get its ``dynamic``.
    """
    if (
        former
        and former.get("class_path")
        and "init_args" in former
        and not _same_class(former["class_path"], value["class_path"])
    ):
        taken, of_former = (_parameters(path) for path in (value["class_path"], former["class_path"]))
        for name in list(former["init_args"].keys()):
            dropped = former["init_args"].pop(name)
            if name in taken and dropped != of_former[name]:
                names = [path.rpartition(".")[2] for path in (former["class_path"], value["class_path"])]
                _say_once(f"{name}={dropped!r} of {names[0]} does not carry over to {names[1]}")


def _parameters(class_path: str) -> dict[str, Any]:
    """Arguments of a class and of those that it hands them on to, with their defaults."""
    module, _, name = class_path.rpartition(".")
    bases = reversed(getattr(importlib.import_module(module), name).__mro__)
    return {k: p.default for base in bases for k, p in inspect.signature(base.__init__).parameters.items()}


@functools.cache
def _say_once(line: str) -> None:
    """Arguments are parsed several times; and standard output may be that of ``--print_config``."""
    print(line, file=sys.stderr)


_all_subclass_paths = jsonargparse._typehints.get_all_subclass_paths


def _subclass_paths(*args: Any, **kwargs: Any) -> list[str]:
    """A short name that several packages have (lightning-bolts has an ``MNISTDataModule``) is the class of this one."""
    paths: list[str] = _all_subclass_paths(*args, **kwargs)
    ours = {path for path in paths if path.startswith("pixelgan_lightning.")}
    names = {path.rpartition(".")[2] for path in ours}
    return [path for path in paths if path in ours or path.rpartition(".")[2] not in names]


jsonargparse._typehints.discard_init_args_on_class_path_change = _forget_former_class
jsonargparse._typehints.get_all_subclass_paths = _subclass_paths


def _require_class_first(args: Sequence[str]) -> None:
    """Refuse ``--data.batch_size 5 --data MNISTDataModule``: the class, coming later, starts from its own defaults.

    Raises:
        ConfigurationError: an option for an argument of a class comes before the option for the class.
    """
    names = [arg.partition("=")[0] for arg in args]
    for i, name in enumerate(names):
        option = name.removesuffix(".class_path")
        if option in ("--data", *(f"--model.{component}" for component in COMPONENTS)):
            for earlier in names[:i]:
                if earlier.startswith(f"{option}.") and earlier != f"{option}.class_path":
                    raise ConfigurationError(f"{earlier} is not usable before {name}: allowed is the class first")


def _option(args: Sequence[str], name: str) -> str | None:
    """The value of the last option of this name."""
    return next((value for option, value in reversed([*_options(args)]) if option == name), None)


def _require_settings_of_phases(config: Any) -> None:
    """What each phase has of its own: Lightning's message would say to switch to automatic optimization.

    Raises:
        ConfigurationError: one of Lightning's settings for all.
    """
    instead = {
        "gradient_clip_val": "model.phases.<phase>.clip_norm, for example --model.phases.reconstruction.clip_norm",
        "gradient_clip_algorithm": "model.phases.<phase>.clip_norm",
        "accumulate_grad_batches": "a larger batch_size: every phase moves its parameters with every batch",
    }
    instead |= {
        "sync_batchnorm": "false: pixelgan_lightning.numerics.normalization.BatchNorm is synchronised already",
        "model_registry": "null: checkpoints stay in the run's folder (with W&B: log_model of its logger)",
    }
    for name, other in instead.items():
        if config.trainer[name] != inspect.signature(pl.Trainer).parameters[name].default:
            raise ConfigurationError(f"trainer.{name}={config.trainer[name]} is not usable: allowed is {other}")


def _require_yaml(args: Sequence[str]) -> None:
    """Read every ``--config`` once: here the message can say which file it is about.

    Raises:
        ConfigurationError: a file is no YAML, or not a mapping.
    """
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name not in ("--config", "-c") or (not equals and i + 1 == len(args)):
            continue
        path = Path(value if equals else args[i + 1])
        if not path.is_file():
            continue  # jsonargparse says so
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise ConfigurationError(f"config={path} is not usable: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"config={path} is not usable: it holds {type(content).__name__}; allowed are mappings"
            )
        for key in ("trainer", "model", "checkpoint"):
            if not isinstance(content.get(key, {}), dict):
                raise ConfigurationError(f"{key}={content[key]!r} in {path} is not usable: allowed are mappings")


def _of_run(stored: str | None, checkpoint: Path, allowed: set[str], with_data: bool) -> Taken:
    """What is taken of the configuration of a checkpoint's run.

    A checkpoint holds the configuration of its own part of the run: that of the continuation, after one. Where
    it has none, the run's folder may have the file.
    """
    config = run_of(checkpoint) / CONFIG
    if stored is not None:
        where = f"that of the run, stored in {checkpoint}"
    elif config.is_file():
        stored, where = config.read_text(), str(config)
    else:
        return Taken()
    run = taken(stored, where, allowed, with_data)
    say(f"configuration: {where}")
    if run.left:
        say(f"not taken from there, to be given again where wanted: {', '.join(run.left)}")
    return run


def _require_trusted_model(description: dict[str, Any], path: Path, allowed: set[str]) -> set[str]:
    """The modules of the components in a checkpoint.

    Raises:
        ConfigurationError: one of them is not to be trusted.
    """
    try:
        return require_trusted(description, (Component,), allowed, loaded=True)
    except ConfigurationError as error:
        raise ConfigurationError(f"ckpt_path={path} is not usable: {error}") from None


def _modules_of_the_user(args: Sequence[str]) -> set[str]:
    """The modules whose code the user wants to run: of ``--allow``, of classes in files and arguments."""
    modules = set()
    for name, value in _options(args):
        if name == "--allow":
            modules.update(value.split(","))
        elif name in ("--config", "-c"):
            if Path(value).is_file():
                modules |= named_modules(yaml.safe_load(Path(value).read_text()))
        elif CLASS_PATH.fullmatch(value) and not Path(value).exists():
            modules.add(value.rpartition(".")[0])
        elif "class_path" in value:
            with suppress(yaml.YAMLError):
                modules |= named_modules(yaml.safe_load(value))
    modules = {module for module in modules if module.partition(".")[0] not in ("pixelgan_lightning", "jsonargparse")}
    if modules:
        look_into_working_folder()
        jsonargparse.set_parsing_settings(import_path_allowlist=sorted(modules))
    return modules


def _names_data(args: Sequence[str]) -> bool:
    """Whether the user says which data module it is."""
    for name, value in _options(args):
        if name in ("--data", "--data.class_path"):
            return True
        if name in ("--config", "-c") and Path(value).is_file():
            data = yaml.safe_load(Path(value).read_text()).get("data")
            if isinstance(data, str) or (isinstance(data, dict) and "class_path" in data):
                return True
    return False


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options that have a value, with it."""
    for i, arg in enumerate(args):
        name, equals, after = arg.partition("=")
        if name.startswith("-") and (equals or i + 1 < len(args)):
            yield name.removesuffix("+"), after if equals else args[i + 1]


def _with_packaged_configs(args: Sequence[str]) -> list[str]:
    """``configs/NAME.yaml`` means the file that ships with the package where the working folder has none."""
    resolved = []
    for arg in args:
        name, equals, value = arg.rpartition("=")
        if value.startswith("configs/") and not Path(value).exists():
            packaged = Path(str(files("pixelgan_lightning.configs"))) / value.removeprefix("configs/")
            if packaged.is_file():
                say(f"{value}: the file that ships with the package")
                value = str(packaged)
        resolved.append(name + equals + value)
    return resolved


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of ``pixelgan``: one line and status 2 where it cannot do what is asked, 1 where a run fails."""
    reuse_memory()
    fast_training()
    _say_once.cache_clear()
    with quiet_libraries(), run_folder_scope():
        arguments = list(sys.argv[1:] if args is None else args)
        if arguments == ["--version"]:
            print(__version__)
            return
        try:
            known = [*LightningCLI.subcommands(), *commands.COMMANDS]
            if arguments and arguments[0] not in known and not arguments[0].startswith("-"):
                raise ConfigurationError(f"command={arguments[0]} is not usable: allowed are {', '.join(known)}")
            if arguments and arguments[0] in commands.COMMANDS:
                commands.main(arguments)
            else:
                PixelGANCLI(arguments)
        except (ConfigurationError, MisconfigurationException) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)
        except RunError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(1) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)
        except OSError as error:  # whoever writes logs, pictures and tables: the disk is full, a folder is gone
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
            raise SystemExit(1) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)
        except Exception as error:
            if not _restores_a_checkpoint(error):
                raise
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"error: ckpt_path is not usable: its content is not what a fit writes ({what})", file=sys.stderr)
            raise SystemExit(2) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)


def _restores_a_checkpoint(error: Exception) -> bool:
    """Whether an error comes of handing the content of a checkpoint to the parts of a run."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).stem == "checkpoint_connector" and "restore" in frame.name for frame in frames)


if __name__ == "__main__":
    main()
