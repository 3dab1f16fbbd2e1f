"""Every configuration that ships with the package goes through the command line: fit, then test."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from commandline import CONFIGS, load_step, pixelgan, pixelgan_process
from realformats import write_mnist, write_norb, write_svhn

from pixelgan_lightning.model import THE_PAPERS

EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
SMALL = sorted(CONFIGS.glob("small/*.yaml"))
OTHERS = sorted([*CONFIGS.glob("beyond/*.yaml"), *CONFIGS.glob("baselines/*.yaml")])
WHOLE = EXPERIMENTS + SMALL + OTHERS
LOGGERS = sorted(CONFIGS.glob("logger/*.yaml"))
TRAINERS = sorted(CONFIGS.glob("trainer/*.yaml"))
SWEEPS = sorted(CONFIGS.glob("sweeps/*.yaml"))
DIGITS = CONFIGS / "digits_clustering.yaml"
SMALL_DECODERS = {
    "GatedPixelCNN": {"channels": 4, "layers": 2, "dilations": None},
    "ConvDecoder": {"channels": [4, 4, 4]},
}

FEW_BATCHES = {
    "max_epochs": 1,
    "check_val_every_n_epoch": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
FEW_IMAGES = {
    "SampleGrid": {"columns": 2, "max_rows": 2, "reconstructions": 2, "manifold_side": 2},
    "MarginalLikelihood": {"max_images": 4},
    "InformationDecomposition": {"max_images": 4, "num_samples": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """For every data module small files in its format: the arguments that make it use them."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(folder, train=700, test=60, name=name)  # a batch of 500 and 100 for validation
    write_svhn(folder, train=1600, test=60)  # with 100 labels of every class
    write_norb(folder, pairs=1300)  # with 200 labels of every class, also without a fifth for validation
    return {
        "DigitsDataModule": {},
        "MNISTDataModule": {"data_dir": str(folder), "num_val": 100, "download": False, "batch_size": 50},
        "FashionMNISTDataModule": {"data_dir": str(folder), "num_val": 100, "download": False, "batch_size": 50},
        "SVHNDataModule": {"data_dir": str(folder), "num_val": 100, "side": 8, "download": False},
        "NORBDataModule": {"data_dir": str(folder), "side": 8, "download": False},
    }


def merged(paths: list[Path]) -> dict[str, Any]:
    """Sections of stacked files, only for looking up which classes they use."""
    sections: dict[str, Any] = {}
    for path in paths:
        for name, section in yaml.safe_load(path.read_text()).items():
            sections[name] = {**sections.get(name, {}), **section}
    return sections


def small_overlay(paths: list[Path], data: dict[str, dict[str, Any]], folder: Path) -> Path:
    """A configuration to stack on ``paths`` that leaves everything as it is but makes it cheap."""
    config = merged(paths)
    callbacks = [
        {**callback, "init_args": callback.get("init_args", {}) | FEW_IMAGES.get(callback["class_path"], {})}
        for callback in config["trainer"].get("callbacks", [])
    ]
    name = config["data"]["class_path"]
    assert name in data, f"write small files for {name} in the fixture `data`"
    overlay = {
        "trainer": {**FEW_BATCHES, "callbacks": callbacks},
        "data": {"class_path": name, "init_args": data[name]},
        "model": {
            "decoder": {
                "class_path": config["model"]["decoder"]["class_path"],
                "init_args": SMALL_DECODERS[config["model"]["decoder"]["class_path"]],
            },
        },
    }
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


def header(path: Path) -> str:
    """The comment that a configuration opens with."""
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), path.open()))


def words(path: Path) -> str:
    """The opening comment, without line ends."""
    return " ".join(header(path).replace("#", "").split())


def name_of(path: Path) -> str:
    """As in a command, without ``configs/`` and the suffix."""
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def stacked(paths: list[Path]) -> list[str]:
    return [argument for path in paths for argument in ("--config", str(path))]


def check_fit_and_test(run: Path, *flags: str) -> None:
    pixelgan("test", "--ckpt_path", run / "checkpoints" / "last.ckpt", *flags)
    results = json.loads((run / "results.json").read_text())
    assert results["test/reconstruction"] > 0
    assert (run / "fit" / "metrics.csv").is_file()
    assert (run / "test" / "metrics.csv").is_file()


def test_there_are_configurations() -> None:
    assert all([EXPERIMENTS, SMALL, OTHERS, LOGGERS, TRAINERS, SWEEPS])


def test_the_pair_differs_in_the_receptive_field_alone() -> None:
    narrow, wide = (
        yaml.safe_load((CONFIGS / f"mnist_gaussian_{name}.yaml").read_text()) for name in ("narrow", "wide")
    )
    reach = []
    for config in (narrow, wide):
        arguments = config["model"]["decoder"]["init_args"]
        reach.append(arguments.pop("first_kernel") // 2 + sum(arguments.pop("dilations")))
    assert reach == [3, 19]
    assert narrow == wide


@pytest.mark.parametrize("data", ["svhn", "norb"])
def test_baselines_differ_from_the_experiment_in_one_thing(data: str) -> None:
    """The adversarial autoencoder in its decoder; labels alone in the phases, and in what looks at a decoder."""
    row, adversarial, labels = (
        yaml.safe_load((CONFIGS / name).read_text())
        for name in (
            f"small/{data}_semisupervised_1000.yaml",
            f"baselines/{data}_aae_1000.yaml",
            f"baselines/{data}_labels_only_1000.yaml",
        )
    )
    phases = row["model"]["phases"]
    assert [phase["class_path"] for phase in phases.values()] == [phase.__name__ for phase in THE_PAPERS.values()]
    assert labels["model"].pop("phases") == {"classification": phases["classification"]}
    assert adversarial["model"]["decoder"]["class_path"] == "ConvDecoder"
    for config in (row, labels):
        config["trainer"]["callbacks"] = [
            callback
            for callback in config["trainer"]["callbacks"]
            if callback["class_path"] not in ("SampleGrid", "MarginalLikelihood")
        ]
    del adversarial["trainer"]["callbacks"], adversarial["model"]["decoder"]
    assert {**labels, "model": {**labels["model"], "phases": phases}} == row
    del row["trainer"]["callbacks"], row["model"]["decoder"]
    assert adversarial == row


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an agent would start is accepted, and the metric is one that the experiment logs."""
    sweep = yaml.safe_load(path.read_text())
    assert sweep["command"][0] == sweep["program"] == "pixelgan"
    assert sweep["command"][-1] == "${args}"
    values = {name: given.get("values", [given.get("min")])[0] for name, given in sweep["parameters"].items()}
    fixed = [part.replace("configs/", f"{CONFIGS}/") for part in sweep["command"][1:-1]]
    pixelgan(*fixed, *(f"--{name}={value}" for name, value in values.items()), "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    for name, value in values.items():
        section = printed
        for key in name.split("."):
            section = section[key]
        assert section == value
    assert sweep["metric"]["name"] == "val/cluster_accuracy"
    assert any(callback["class_path"].endswith("ClusterAccuracy") for callback in printed["trainer"]["callbacks"])


@pytest.mark.parametrize("path", EXPERIMENTS + OTHERS, ids=name_of)
def test_experiments(
    path: Path, data: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay = small_overlay([path], data, tmp_path)
    pixelgan("fit", *stacked([path, overlay]), "--run_dir", "run")
    check_fit_and_test(Path("run"))


@pytest.mark.parametrize("path", SMALL, ids=name_of)
def test_a_small_variant_has_the_parts_and_phases_of_its_experiment(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = {p.stem: p for p in OTHERS + EXPERIMENTS}[path.stem.replace("pixelcnn_wide", "pixelcnn")]
    kinds = []
    for config in (path, large):
        pixelgan("fit", "--config", config, "--print_config")
        model = yaml.safe_load(capsys.readouterr().out)["model"]
        phases = model.pop("phases")
        parts = {name: part["class_path"] for name, part in model.items() if isinstance(part, dict)}
        if parts["likelihood"].endswith(("DiscretizedLogisticMixture", "CategoricalLevels")):
            parts["likelihood"] = "of colours"  # a small variant may have fewer levels
        kinds.append((parts, [(name, phase["class_path"]) for name, phase in phases.items()]))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", WHOLE, ids=name_of)
def test_a_configuration_is_one_file_with_its_command(path: Path) -> None:
    (command,) = re.findall(r"^#   pixelgan fit (.*)$", header(path), re.MULTILINE)
    one, _, earlier = command.partition(" --init_from ")
    assert one == f"--config configs/{name_of(path)}.yaml"
    assert bool(earlier) == ("oes on from" in words(path))
    config = yaml.safe_load(path.read_text())
    assert [*config] == ["model", "data", "trainer"]
    assert {"prior", "posterior", "encoder", "decoder", "likelihood", "discriminator", "phases"} <= {*config["model"]}
    for name in re.findall(r"(?<![\w/])(?:configs/|small/|beyond/|baselines/)[\w/]+\.yaml", header(path)):
        assert (CONFIGS / name.removeprefix("configs/")).is_file(), name


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_says_what_it_reproduces(path: Path) -> None:
    text = words(path)
    assert re.search(r"\(PixelGAN autoencoders|[Aa]dversarial [Aa]utoencoder|its method", text), "which part of a paper"
    assert re.search(r"reported|no figure|no number|figure \d", text), "the published figure, or that there is none"
    if not path.stem.startswith("digits"):
        assert re.search(r"[Mm]eant for a GPU|measured", text)
        assert re.search(r"For two CPU cores(, with agreement)?: configs/(small|beyond)/", text), "what a laptop runs"
    else:
        assert re.search(r"About \w+ minutes? on", text)


@pytest.mark.parametrize("path", SMALL + OTHERS, ids=name_of)
def test_what_is_meant_for_a_cpu_says_how_long_it_takes(path: Path) -> None:
    text = words(path)
    assert re.search(r"[Mm]eant for a GPU|minutes? .*(measured|estimate)", text)
    if path.parent.name == "beyond":
        assert re.search(r"an addition to the paper|by the paper's phases", text)
    if path.parent.name == "baselines":
        assert text.startswith("Baseline: ")


@pytest.mark.parametrize("path", LOGGERS, ids=lambda path: path.stem)
def test_loggers(path: Path, data: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    overlay = small_overlay([DIGITS, path], data, tmp_path)
    pixelgan("fit", *stacked([DIGITS, path, overlay]), "--run_dir", "run")
    wandb.finish()
    check_fit_and_test(Path("run"))
    wandb.finish()
    assert {p.name for p in tmp_path.iterdir()} == {"overlay.yaml", "run"}  # loggers write into the run's folder


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: path.stem)
def test_trainers(path: Path, data: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process of its own, which starts a second one where the strategy is a distributed one."""
    monkeypatch.chdir(tmp_path)
    overlay = small_overlay([DIGITS, path], data, tmp_path)
    devices = 2 if "ddp" in merged([path])["trainer"].get("strategy", "") else 1
    flags = ["--trainer.accelerator", "cpu", "--trainer.devices", devices, "--trainer.limit_train_batches", "4"]
    process = pixelgan_process("fit", *stacked([DIGITS, path, overlay]), *flags, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    (run,) = Path("runs").iterdir()
    assert load_step(run) == 4
    assert {entry.name for entry in run.iterdir()} == {".lock", "checkpoints", "config.yaml", "fit", "images"}
    assert process.stdout.count("run folder:") == 1
    noise = [line for line in process.stderr.splitlines() if "Jsonargparse" in line or "Tip:" in line]
    assert noise == []
    check_fit_and_test(run, "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto")
