"""The command line: ``pixelgan fit | validate | test | predict``.

It is LightningCLI with four additions: shapes flow from the data to the model, every run has a folder of its own, a
checkpoint brings the configuration of its run along, and unusable values end in one line instead of a traceback.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

import pixelgan_lightning.callbacks
import pixelgan_lightning.datamodules  # noqa: F401  (imported so that short class names resolve in YAML)
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.model import PixelGAN

RUN_DIR_VARIABLE = "PIXELGAN_RUN_DIR"  # set for the processes that DDP starts, so that all use one folder
FROM_DATA = ("image_shape", "num_classes")  # model arguments that the data decides
AT_RUNTIME = ("seed", "compile_decoder")  # model arguments that a checkpoint does not decide


def say(line: str) -> None:
    """One line for the user, from the first process only."""
    if rank_zero_only.rank in (None, 0):
        print(line, flush=True)


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole resolved configuration of a fit into the run's folder."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or self.already_saved:
            return
        self.already_saved = True
        config = self.config.clone()
        for key in ("run_dir", "ckpt_path", "config"):
            config.pop(key, None)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = (
            "config.yaml" if not (folder / "config.yaml").exists() else f"config-{_first_free(folder, 'config')}.yaml"
        )
        self.parser.save(config, folder / name, skip_none=False, overwrite=True, multifile=False)


class PixelGANCLI(LightningCLI):
    """LightningCLI for :class:`PixelGAN` and any data module."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            PixelGAN,
            pl.LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the model stores its own description, with or without command line
            parser_kwargs={"prog": "pixelgan", "description": "PixelGAN autoencoders"},
            args=args,
        )

    # ------------------------------------------------------------------------------------------------ the arguments

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run. Default: a new one in runs/, or that of --ckpt_path.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "trainer.accelerator": "auto",
                "trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
                "data": {"class_path": "DigitsDataModule"},
                "model.prior": {"class_path": "Categorical"},
                "model.encoder": {"class_path": "ConvEncoder"},
                "model.decoder": {"class_path": "GatedPixelCNN"},
                "model.likelihood": {"class_path": "Bernoulli"},
                "model.discriminator": {"class_path": "MLPDiscriminator"},
            }
        )
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # a table on disk, not tensors in memory
        return parser

    def _parse_ckpt_path(self) -> None:
        """The model is what the checkpoint says it is; a flag that says otherwise is named and not used."""
        config = self.config[self.config.subcommand]
        if config.get("ckpt_path") is None:
            return
        path = _checkpoint_file(config.ckpt_path, config.get("run_dir"))
        config.ckpt_path = str(path)
        try:
            stored = torch.load(path, weights_only=True, map_location="cpu").get("hyper_parameters", {})
        except Exception as error:
            raise ConfigurationError(f"ckpt_path={path} cannot be read as a checkpoint: {error}") from error
        stored = {k: v for k, v in stored.items() if k not in (*FROM_DATA, *AT_RUNTIME)}
        given = json.loads(json.dumps(config.model.as_dict(), default=str))
        for key, mine, theirs in _differences(given, stored, "model"):
            say(f"{key}: {mine!r} is not used, the checkpoint has {theirs!r}")
        self.config = self.parser.parse_object({self.config.subcommand: {"model": stored}}, self.config)

    # -------------------------------------------------------------------------------------------------- the run folder

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.run_dir = _run_dir(config, self.subcommand)
        os.environ[RUN_DIR_VARIABLE] = str(self.run_dir)
        config.run_dir = config.trainer.default_root_dir = str(self.run_dir)
        if config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(self.run_dir / "checkpoints")
        loggers = config.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if hasattr(logger, "init_args") and "save_dir" in logger.init_args:
                self._place(logger.class_path.rpartition(".")[2], logger.init_args)
        say(f"run folder: {self.run_dir}")

    def _place(self, logger: str, init_args: Any) -> None:
        """Let a logger write into the run's folder, one sub-folder per command, never over an earlier one."""
        init_args.save_dir = str(self.run_dir)
        if logger in ("CSVLogger", "TensorBoardLogger"):
            init_args.name = ""
            folder = self.run_dir / str(self.subcommand)
            taken = folder.exists() and os.environ.get("LOCAL_RANK", "0") == "0"
            init_args.version = (
                f"{self.subcommand}-{_first_free(self.run_dir, str(self.subcommand))}" if taken else self.subcommand
            )
        elif logger == "WandbLogger" and init_args.get("name") is None:
            init_args.name = self.run_dir.name

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        keep = config.get("enable_checkpointing") is not False
        extra = [self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys if keep]
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            extra.append(RichProgressBar())
        return self._instantiate_trainer(config, extra)

    # ------------------------------------------------------------------------------------------------- what is printed

    def after_fit(self) -> None:
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if last.exists():
            say(f"next: pixelgan test --ckpt_path {last}")

    def after_test(self) -> None:
        """Print the results and where the pictures are; keep the numbers in ``results.json``."""
        if not self.trainer.is_global_zero:
            return
        results = {k: v.item() for k, v in sorted(self.trainer.callback_metrics.items())}
        if not self.trainer.fast_dev_run:
            (self.run_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        table = Table(title=f"test results of {self.run_dir}")
        table.add_column("quantity")
        table.add_column("value", justify="right")
        for name, value in results.items():
            table.add_row(name, f"{value:.4f}")
        Console().print(table)
        for picture in sorted((self.run_dir / "images").glob("**/*.png")):
            if "test" in picture.name or "test" in picture.parent.name:
                say(f"picture: {picture}")


# ------------------------------------------------------------------------------------------------------------- helpers


def _first_free(folder: Path, stem: str) -> int:
    """The smallest n >= 1 for which nothing in ``folder`` is called ``stem-n`` (with any suffix)."""
    n = 1
    while any(folder.glob(f"{stem}-{n}*")):
        n += 1
    return n


def _run_dir(config: Any, subcommand: str | None) -> Path:
    """A new folder for a new run; the folder of the checkpoint for what follows from it."""
    if os.environ.get(RUN_DIR_VARIABLE) and os.environ.get("LOCAL_RANK", "0") != "0":
        return Path(os.environ[RUN_DIR_VARIABLE])
    wanted = config.get("run_dir")
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None:
        return Path(wanted) if wanted else _run_of(Path(checkpoint))
    if wanted is None:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        name = job if job != "none" else time.strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / f"{type_name(config.data)}-{name}"
    else:
        folder = Path(wanted)
    if (folder / "config.yaml").exists() and os.environ.get("LOCAL_RANK", "0") == "0":
        taken = folder
        folder = folder.with_name(f"{folder.name}-{_first_free(folder.parent, folder.name)}")
        say(f"{taken} holds an earlier run; this one goes to {folder} (to go on with that one: --ckpt_path last)")
    return folder


def type_name(data: Any) -> str:
    """``digits`` for ``DigitsDataModule``."""
    return data.class_path.rpartition(".")[2].removesuffix("DataModule").lower() or "run"


def _run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def _checkpoint_file(given: str, run_dir: str | None) -> Path:
    """The file that ``--ckpt_path`` means.

    Raises:
        ConfigurationError: there is none; a run never starts from scratch when it was told to go on.
    """
    if given == "last":
        if run_dir is None:
            raise ConfigurationError("ckpt_path=last is not usable without run_dir: name the run's folder")
        path = Path(run_dir) / "checkpoints" / "last.ckpt"
    else:
        path = Path(given)
    if not path.is_file():
        raise ConfigurationError(f"ckpt_path={given} is not usable: there is no file {path}")
    return path


def _differences(given: Any, stored: Any, key: str) -> list[tuple[str, Any, Any]]:
    """Leaves of ``stored`` that ``given`` has with another value: ``(key, given, stored)``."""
    if isinstance(given, dict) and isinstance(stored, dict):
        if "class_path" in stored and given.get("class_path") != stored["class_path"]:
            return [(key, given.get("class_path"), stored["class_path"])]
        return [d for k in stored if k in given for d in _differences(given[k], stored[k], f"{key}.{k}")]
    as_list = [list(v) if isinstance(v, tuple) else v for v in (given, stored)]
    return [] if given is None or as_list[0] == as_list[1] else [(key, given, stored)]


def _option(args: list[str], *names: str) -> str | None:
    """The value of the first option called one of ``names``."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names:
            return value if equals else (args[i + 1] if i + 1 < len(args) else None)
    return None


def _with_run_config(args: list[str]) -> list[str]:
    """Without ``--config``, a checkpoint brings the configuration that its run has saved."""
    checkpoint = _option(args, "--ckpt_path")
    if checkpoint is None or _option(args, "--config", "-c") is not None:
        return args
    config = _run_of(_checkpoint_file(checkpoint, _option(args, "--run_dir"))) / "config.yaml"
    if not config.is_file():
        return args
    say(f"configuration: {config}")
    return [args[0], "--config", str(config), *args[1:]]


def _with_packaged_configs(args: list[str]) -> list[str]:
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
    """Entry point of ``pixelgan``; exits with status 2 and one line when something asked for cannot be done."""
    argv = list(sys.argv[1:] if args is None else args)
    before = os.environ.get(RUN_DIR_VARIABLE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="jsonargparse")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            argv = _with_packaged_configs(_with_run_config(argv) if argv else argv)
            PixelGANCLI(argv)
        except ConfigurationError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from (error if os.environ.get("PIXELGAN_TRACEBACK") else None)
        finally:
            if before is None:
                os.environ.pop(RUN_DIR_VARIABLE, None)


if __name__ == "__main__":
    main()
