"""A checkpoint, an exported folder and a run's folder are data: whatever they say, no code of theirs runs."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import SMALL, metrics, pixelgan, pixelgan_process

from pixelgan_lightning import PixelGAN, callbacks
from pixelgan_lightning.datamodules import HuggingFaceDataModule
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.run_config import PLACES

FIT = ["fit", "--config", SMALL]
CHECKPOINT = Path("run/checkpoints/last.ckpt")
PROOF = Path("proof")

# A module that nobody has named: importing it is enough to leave a proof.
MODULE = """
from pathlib import Path
Path("proof").touch()
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.priors import Categorical
class Part(Categorical):
    pass
class Data(DigitsDataModule):
    pass
"""
numbers = itertools.count()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(sys, "path", [*sys.path])
        pixelgan(*FIT, "--run_dir", folder)
    return folder


@pytest.fixture(autouse=True)
def module(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working folder, beside a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copytree(trained, "run")
    name = f"unnamed_{next(numbers)}"
    Path(f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def edit(change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(CHECKPOINT, weights_only=True)
    change(content)
    torch.save(content, CHECKPOINT)


def edit_config(change: Callable[[dict[str, Any]], object], in_folder: bool = False) -> None:
    """The configuration of the run, in the checkpoint or in the run's folder."""

    def change_content(content: dict[str, Any]) -> None:
        config = yaml.safe_load(content["pixelgan_lightning_config"])
        change(config)
        content["pixelgan_lightning_config"] = yaml.safe_dump(config)
        if in_folder:
            Path("run/config.yaml").write_text(content.pop("pixelgan_lightning_config"))

    edit(change_content)
    torch.load(CHECKPOINT, weights_only=True)  # a harmless file, by PyTorch's measure


def spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


POPEN = spec("subprocess.Popen", args="touch proof; sleep 0.2", shell=True)
LATER = spec("pytorch_lightning.callbacks.LambdaCallback", on_test_start="builtins.breakpoint", on_fit_start="os.abort")
PROFILER = spec("pytorch_lightning.profilers.SimpleProfiler", dirpath="proof", filename="proof")

TRAINER: dict[str, dict[str, Any]] = {
    "strategy": {"strategy": spec("pytorch_lightning.strategies.DDPStrategy", ddp_comm_state=POPEN)},
    "callback with a function": {"callbacks": [LATER]},
    "callback with a command": {
        "callbacks": [
            spec("pytorch_lightning.callbacks.EarlyStopping", monitor="val/reconstruction", strict=False, mode=POPEN)
        ]
    },
    "callback from anywhere": {"callbacks": [spec("MODULE.Part")]},
    "callback that writes where it is told": {
        "callbacks": [spec("pixelgan_lightning.callbacks.PredictionTable", out="proof.csv")]
    },
    "profiler": {"profiler": PROFILER},
    "plugins": {"plugins": [POPEN]},
    "logger": {"logger": spec("pytorch_lightning.loggers.CSVLogger", save_dir="proof", flush_logs_every_n_steps=POPEN)},
    "number": {"max_epochs": POPEN, "limit_test_batches": POPEN},
    "text": {"log_every_n_steps": "MODULE.Part"},
    "folder": {"default_root_dir": "proof"},
}


def named(value: Any, module: str) -> Any:
    return json.loads(json.dumps(value).replace("MODULE", module))


def proofs(module: str) -> list[str]:
    return [*(path.name for path in Path().glob("proof*")), *([module] if module in sys.modules else [])]


def attempt(*args: object) -> None:
    """A command that may be refused or go through, but not for its options: it would not have read the file."""
    said = io.StringIO()
    with suppress(SystemExit), redirect_stderr(said):
        pixelgan(*args)
    options = [arg.removeprefix("--") for arg in map(str, args) if arg.startswith("--")]
    assert "unrecognized arguments" not in said.getvalue()
    assert not [option for option in options if f"error: {option} is unknown" in said.getvalue()]


@pytest.mark.parametrize("in_folder", [False, True], ids=["checkpoint", "folder"])
@pytest.mark.parametrize("case", TRAINER)
def test_the_trainer_of_a_file(case: str, in_folder: bool, module: str) -> None:
    edit_config(lambda config: config["trainer"].update(named(TRAINER[case], module)), in_folder)
    attempt("predict" if "writes" in case else "test", "--ckpt_path", CHECKPOINT)
    attempt("fit", "--ckpt_path", CHECKPOINT, "--trainer.max_epochs", 2)
    assert proofs(module) == []


DATA: dict[str, Any] = {
    "module": spec("MODULE.Data"),
    "bare name": "MODULE.Data",
    "command": POPEN,
    "command as an argument": spec("pixelgan_lightning.datamodules.DigitsDataModule", batch_size=POPEN),
    "argument": spec("pixelgan_lightning.datamodules.DigitsDataModule", augmentation=spec("MODULE.Part")),
    "bare argument": spec("pixelgan_lightning.datamodules.DigitsDataModule", augmentation="MODULE.Part"),
    "text of an argument": spec(
        "pixelgan_lightning.datamodules.DigitsDataModule", augmentation="{class_path: MODULE.Part}"
    ),
    "escaped": spec(
        "pixelgan_lightning.datamodules.DigitsDataModule", augmentation='{"class\\u005fpath": MODULE.Part}'
    ),
    "file of an argument": spec("pixelgan_lightning.datamodules.DigitsDataModule", augmentation="part.yaml"),
    "dictionary": spec("pixelgan_lightning.datamodules.DigitsDataModule", dict_kwargs={"x": POPEN}),
    "through the package": spec("pixelgan_lightning.cli.pl.LightningDataModule"),
    "no class": spec("pixelgan_lightning.cli.main", args=["fit"]),
    "a program": spec("pixelgan_lightning.__main__.Data"),
}


@pytest.mark.parametrize("case", DATA)
def test_the_data_of_a_file(case: str, module: str) -> None:
    Path("part.yaml").write_text(f"class_path: {module}.Part\n")
    edit_config(lambda config: config.update(data=named(DATA[case], module)))
    attempt("test", "--ckpt_path", CHECKPOINT)
    attempt("complete", "--ckpt_path", CHECKPOINT, "--rows", 3, "--out", "rest.npz", "--num", 1, "--draws", 1)
    assert proofs(module) == []


PARTS: dict[str, dict[str, Any]] = {
    "module": {"prior": spec("MODULE.Part", num_categories=10)},
    "bare name": {"prior": "MODULE.Part"},
    "text": {"prior": "{class_path: MODULE.Part}"},
    "file": {"prior": "part.yaml"},
    "command": {"encoder": POPEN},
    "list": {"prior": spec("pixelgan_lightning.priors.ProductPrior", priors=[spec("MODULE.Part")])},
    "names in a list": {"prior": spec("pixelgan_lightning.priors.ProductPrior", priors=["MODULE.Part"])},
    "list of a list": {"prior": [[spec("MODULE.Part")]]},
    "argument": {"decoder": spec("pixelgan_lightning.decoders.GatedPixelCNN", channels=POPEN)},
    "optimizer": {"reconstruction": {"lr": POPEN}},
    "optimizer as class": {"reconstruction": spec("MODULE.Part")},
    "unknown argument": {"notes": POPEN},
    "instantiator": {
        "_instantiator": "pytorch_lightning.cli.instantiate_module",
        "_class_path": "pixelgan_lightning.model.PixelGAN",
        "prior": spec("MODULE.Part"),
    },
    "weights from elsewhere": {"init_from": "MODULE.Part"},
}


@pytest.mark.parametrize("case", PARTS)
def test_the_model_of_a_file(case: str, module: str) -> None:
    Path("part.yaml").write_text(f"class_path: {module}.Part\n")
    parts = named(PARTS[case], module)
    edit(lambda content: content["hyper_parameters"].update(parts))
    for command in ("test", "fit"):
        attempt(command, "--ckpt_path", CHECKPOINT, "--trainer.max_epochs", 2)
    attempt("sample", "--ckpt_path", CHECKPOINT, "--out", "out.npz", "--num", 1)
    attempt("export", "--ckpt_path", CHECKPOINT, "--out", "exported")
    if Path("exported").exists():
        attempt("sample", "--pretrained", "exported", "--out", "out.npz", "--num", 1)
        attempt("compare", "exported", "--out", "out.png", "--side", 1)
        attempt(*FIT, "--init_from", "exported")
    sys.path.append(str(Path.cwd()))
    with suppress(ConfigurationError):
        PixelGAN.load_from_checkpoint(CHECKPOINT)
    with suppress(ConfigurationError):
        PixelGAN.from_pretrained("exported")
    assert proofs(module) == []


def test_a_module_of_the_working_folder_is_no_library_of_ours() -> None:
    """Where optional libraries are missing, a file of their name beside the checkpoint does not take their place."""
    before = list(sys.path)
    pixelgan("sample", "--ckpt_path", CHECKPOINT, "--out", "out.npz", "--num", 1)
    pixelgan("test", "--ckpt_path", CHECKPOINT)
    assert sys.path == before


def test_yaml_of_a_run_folder_makes_no_objects(module: str) -> None:
    edit(lambda content: content.pop("pixelgan_lightning_config"))
    Path("run/config.yaml").write_text("data: !!python/object/apply:os.mkdir [proof]\n")
    attempt("test", "--ckpt_path", CHECKPOINT)
    assert proofs(module) == []


# ---------------------------------------------------------------------------------------------------- what is allowed


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        pixelgan(*args)
    assert exit_.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_a_refusal_says_how_to_allow_it(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit(lambda c: c["hyper_parameters"].update(prior=spec(f"{module}.Part", num_categories=10)))
    for command in (["test"], ["sample", "--out", "out.npz", "--num", 1]):
        line = refusal(capsys, *command, "--ckpt_path", CHECKPOINT)
        assert f"class_path='{module}.Part' is not usable" in line
        assert f"--allow {module}" in line
    with pytest.raises(ConfigurationError, match=f"import {module} first"):
        PixelGAN.load_from_checkpoint(CHECKPOINT)
    assert proofs(module) == []
    pixelgan("sample", "--ckpt_path", CHECKPOINT, "--out", "out.npz", "--num", 1, "--allow", module)
    assert type(PixelGAN.load_from_checkpoint(CHECKPOINT).prior).__name__ == "Part"


@pytest.mark.parametrize("how", ["--allow", "--config", "option"])
def test_what_the_user_names_runs(how: str, module: str) -> None:
    prior = spec(f"{module}.Part", num_categories=10)
    edit(lambda content: content["hyper_parameters"].update(prior=prior))
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"prior": prior}}))
    said = {
        "--allow": ["--allow", module],
        "--config": ["--config", "mine.yaml"],
        "option": ["--model.prior", f"{module}.Part"],
    }
    pixelgan("test", "--ckpt_path", CHECKPOINT, *said[how])
    assert Path("run/results.json").is_file()


def test_data_of_ones_own(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit_config(lambda config: config["data"].update(class_path=f"{module}.Data"))
    assert f"--allow {module}" in refusal(capsys, "test", "--ckpt_path", CHECKPOINT)
    pixelgan("test", "--ckpt_path", CHECKPOINT, "--data", "DigitsDataModule")
    assert proofs(module) == []
    pixelgan("test", "--ckpt_path", CHECKPOINT, "--allow", module)
    assert module in sys.modules


# ------------------------------------------------------------------------------------------- what belongs to a machine


def test_a_run_on_two_machines_is_tested_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    machine = {
        "num_nodes": 2,
        "devices": 2,
        "accelerator": "cpu",
        "strategy": "ddp",
        "precision": "64-true",
        "plugins": [
            spec("lightning_fabric.plugins.environments.SLURMEnvironment", auto_requeue=True),
        ],
        "logger": spec("pixelgan_lightning.training.loggers.RunWandbLogger", project="x"),
        "default_root_dir": "/nowhere/runs",
    }
    edit_config(lambda config: config["trainer"].update(machine))
    process = pixelgan_process("test", "--ckpt_path", CHECKPOINT, cwd=Path.cwd(), timeout=120)
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("not taken")]
    for name in ("num_nodes", "devices", "strategy", "plugins", "precision", "logger"):
        assert f"trainer.{name}" in line


def test_a_continued_run_ends_where_it_would_have_ended() -> None:
    sample_grid = spec("pixelgan_lightning.callbacks.SampleGrid", columns=2, reconstructions=0)
    edit_config(lambda config: config["trainer"].update(max_epochs=3, callbacks=[sample_grid]))
    pixelgan("fit", "--run_dir", "run", "--ckpt_path", "last")
    assert metrics(Path("run/fit-1/metrics.csv"), "epoch")[-1] == 2
    assert list(Path("run/images").rglob("*.png"))


def test_callbacks_of_this_package_write_only_into_the_run() -> None:
    """One that takes a place to write to has to name it so that it is left out."""
    for name in callbacks.__all__:
        cls = getattr(callbacks, name)
        if isinstance(cls, type) and issubclass(cls, pl.Callback):
            texts = {k for k, v in cls.__init__.__annotations__.items() if v in ("str", "str | None", "Path")}
            assert texts <= {*PLACES, "monitor"}, name


def test_pickles_behind_a_data_set() -> None:
    """A file may name this data module and its arguments: the library's reader of pickles is none of them."""
    asked: list[object] = []
    library = types.SimpleNamespace(load_dataset=lambda *args, **options: asked.append(args))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", library)
        with pytest.raises(ConfigurationError, match="path='pandas' is not usable: pickles can run code"):
            HuggingFaceDataModule("pandas", options={"data_files": "proof.pkl"})
    assert asked == []
