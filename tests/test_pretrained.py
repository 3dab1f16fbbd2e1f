"""Weights beyond their run: exported folders, models by name, warm starts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from commandline import CONFIGS, SMALL, pixelgan, refused
from safetensors import safe_open
from tinymodel import tiny_model, write_checkpoint

from pixelgan_lightning import PixelGAN, pretrained
from pixelgan_lightning.callbacks import ExponentialMovingAverage
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.weights import export, read_checkpoint, read_folder, warm_start
from pixelgan_lightning.priors import Categorical, Gaussian


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint() -> Path:
    return write_checkpoint(tiny_model(), Path("run/checkpoints/last.ckpt"))


# ------------------------------------------------------------------------------------------------------------ exporting


@pytest.mark.parametrize("flags", [[], ["--float32"]], ids=["float16", "float32"])
def test_an_exported_model_is_the_model(checkpoint: Path, flags: list[str]) -> None:
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "mine", *flags)
    wanted, model = tiny_model(), PixelGAN.from_pretrained("mine")
    assert not model.training
    for name, tensor in model.state_dict().items():
        if not name.startswith("discriminator"):
            assert tensor.dtype == wanted.state_dict()[name].dtype
            torch.testing.assert_close(tensor, wanted.state_dict()[name], rtol=0 if flags else 1e-3, atol=0)
    assert model.hparams == wanted.hparams
    x = torch.randint(17, (3, 1, 8, 8)) / 16
    torch.testing.assert_close(model.log_prob(x), wanted.log_prob(x), rtol=0 if flags else 1e-2, atol=0)


def test_the_folder(checkpoint: Path) -> None:
    (checkpoint.parents[1] / "results.json").write_text(json.dumps({"test/cluster_error_percent": 12.34}))
    (checkpoint.parents[1] / "config.yaml").write_text(
        "data: {class_path: a.DigitsDataModule, init_args: {batch_size: 5, data_dir: /home/me, "
        "train_path: mine/x.npz, test_path: y.pt, cache_dir: ~/c, file: here.csv, binarization: none}}"
    )
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "mine")
    assert {path.name for path in Path("mine").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    with safe_open("mine/model.safetensors", "pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"encoder", "posterior", "decoder"}  # noqa: SIM118
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    card = Path("mine/README.md").read_text()
    assert "12.34" in card
    assert "DigitsDataModule(batch_size=5, binarization=none)" in card
    assert "/home/me" not in card
    assert all(f"## {title}" in card for title in ("Results", "Configuration", "Data", "Licence", "Limits"))


def test_a_card_of_ones_own(checkpoint: Path) -> None:
    Path("card.md").write_text("# Mine\n")
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "mine", "--card", "card.md")
    assert pretrained.card("mine") == "# Mine\n"


def test_exports_that_are_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    command = ["export", "--ckpt_path", checkpoint, "--out"]
    assert (
        refused(capsys, *command, "there") == "out=there is not usable: it exists; allowed is the name of a new folder"
    )
    assert "there is no folder nowhere" in refused(capsys, *command, "nowhere/mine")
    assert "card=none.md" in refused(capsys, *command, "mine", "--card", "none.md")
    assert "ckpt_path=none.ckpt" in refused(capsys, "export", "--ckpt_path", "none.ckpt", "--out", "mine")
    huge = tiny_model()
    next(huge.decoder.parameters()).data[0] = 1e6
    write_checkpoint(huge, Path("huge.ckpt"))
    assert "numbers beyond 65504" in refused(capsys, "export", "--ckpt_path", "huge.ckpt", "--out", "mine")
    assert not Path("mine").exists()
    pixelgan("export", "--ckpt_path", "huge.ckpt", "--out", "mine", "--float32")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hyper_parameters", {"class_path": 3, "init_args": {}}),
        ("hyper_parameters", {"init_args": {}}),
        ("hyper_parameters", {"class_path": "Categorical", "init_args": 3}),
        ("hyper_parameters", None),
        ("state_dict", 3),
        ("state_dict", {"bias": None}),
    ],
)
def test_a_checkpoint_that_says_something_else_is_not_exported(
    key: str, value: object, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content[key] = {**content[key], "prior" if key == "hyper_parameters" else "decoder.head": value}
    torch.save(content, "other.ckpt")
    assert "ckpt_path=other.ckpt is not usable" in refused(capsys, "export", "--ckpt_path", "other.ckpt", "--out", "it")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("results.json", content) for content in (b"[", b"[1]", b'{"a": "b"}', b"\xff")),
        *(("config.yaml", content) for content in (b"data: [", b"- 1", b"data: 3", b"x: 2001-99-99", b"\xff")),
        ("config.yaml", b"data: {init_args: 3}"),
    ],
)
def test_damaged_files_beside_a_checkpoint_are_named(
    name: str, content: bytes, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run", name).write_bytes(content)
    assert f"run/{name} is not usable" in refused(capsys, "export", "--ckpt_path", checkpoint, "--out", "mine")
    assert not Path("mine").exists()


def test_an_unfinished_export_leaves_nothing(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pixelgan_lightning.files.weights.os.rename", fail)
    before = sorted(Path().rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        export(read_checkpoint(checkpoint), "mine", "card")
    assert sorted(Path().rglob("*")) == before


# -------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_models(name: str) -> None:
    model = PixelGAN.from_pretrained(name)
    images = model.sample(4)
    assert images.shape == (4, *model.image_shape)
    assert images.std() > 0
    model.likelihood.check(images)
    assert "phases" in json.loads((pretrained.folder(name) / "config.json").read_text())["model"]  # in today's form
    card = pretrained.card(name)
    assert all(title in card for title in ("Results", "Configuration", "Data", "Licence", "Limits"))
    assert card.startswith(f"# {name}\n")
    assert set(re.findall(r"--pretrained (\S+)", card)) == {name}


def test_names_are_those_of_the_folders(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "home-clusters")
    monkeypatch.setattr(pretrained, "HOME", Path.cwd())
    assert pretrained.names() == ["home-clusters"]
    assert PixelGAN.from_pretrained("home-clusters").prior.num_categories == 10
    with pytest.raises(ConfigurationError, match=r"pretrained=other is not usable: .*home-clusters"):
        PixelGAN.from_pretrained("other")
    pixelgan("sample", "--pretrained", "home-clusters", "--out", "grid.png", "--num", "1")
    assert Path("grid.png").is_file()


def test_damaged_folders(checkpoint: Path) -> None:
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "mine")
    for name, damage in [
        ("config.json", lambda path: path.unlink()),
        ("config.json", lambda path: path.write_text("{")),
        (
            "config.json",
            lambda path: path.write_text(path.read_text().replace('"num_features": 8', '"num_features": 9')),
        ),
        ("config.json", lambda path: path.write_text(path.read_text().replace('"layers": 1', '"layers": 2'))),
        ("config.json", lambda path: path.write_text(path.read_text().replace('"step": ', '"steps": '))),
        ("config.json", lambda path: path.write_text(path.read_text().replace('"layers": 1', '"layrs": 1'))),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ]:
        folder = Path(shutil.copytree("mine", "damaged"))
        damage(folder / name)
        with pytest.raises(ConfigurationError, match="damaged is not usable"):
            PixelGAN.from_pretrained("damaged")
        shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------------------------- warm starts


def test_the_same_model_starts_with_all_weights(checkpoint: Path) -> None:
    model = tiny_model(seed=1)
    assert warm_start(model, checkpoint) == []
    wanted = tiny_model().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_an_exported_folder_has_no_discriminator(checkpoint: Path) -> None:
    pixelgan("export", "--ckpt_path", checkpoint, "--out", "mine", "--float32")
    model = tiny_model(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert warm_start(model, "mine") == ["discriminator"]
    wanted = tiny_model().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("discriminator") else wanted)[name])


def test_another_number_of_categories(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(Categorical(20), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        left = warm_start(model, checkpoint)
    assert all(layer.startswith(("posterior", "decoder", "discriminator")) for layer in left)
    (line,) = [record.getMessage() for record in caplog.records if "init_from" in record.getMessage()]
    assert all(layer in line for layer in left)
    old = tiny_model().state_dict()
    for name, tensor in model.state_dict().items():
        same_shapes = tensor.shape == old[name].shape
        is_left = name.startswith(tuple(left))
        assert torch.equal(tensor, (before if is_left else old)[name])
        assert same_shapes or is_left
    assert not any(layer.startswith("encoder") for layer in left)


def test_nothing_in_common(checkpoint: Path) -> None:
    other = PixelGAN((3, 5, 5), None, prior=Gaussian(3), encoder=ConvEncoder(channels=[3], num_features=5))
    with pytest.raises(ConfigurationError, match=r"init_from=.*no layer"):
        warm_start(other, checkpoint)
    with pytest.raises(ConfigurationError, match=r"init_from=none.ckpt"):
        warm_start(other, "none.ckpt")


def test_a_model_that_ships_is_a_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Layers of other shapes stay as they are, all others have the weights of the file when the work begins."""
    begun: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        PixelGAN,
        "on_validation_start",
        lambda self: begun.append({name: tensor.clone() for name, tensor in self.state_dict().items()}),
    )
    digits = ["validate", "--config", CONFIGS / "digits_clustering.yaml", "--trainer.limit_val_batches", 1]
    pixelgan(*digits)
    with caplog.at_level("INFO"):
        pixelgan(*digits, "--init_from", "mnist-clustering")
    without, with_weights = begun
    shipped = read_folder(pretrained.folder("mnist-clustering")).tensors
    same = {n for n, tensor in shipped.items() if n in without and torch.equal(with_weights[n], tensor.float())}
    fits = {n for n, tensor in shipped.items() if n in without and without[n].shape == tensor.shape}
    layers_with_others = {n.rpartition(".")[0] for n in shipped if n not in fits}
    assert same >= {n for n in fits if n.rpartition(".")[0] not in layers_with_others}
    assert sum(not torch.equal(without[n], with_weights[n]) for n in same) > 20
    assert all(torch.equal(without[n], with_weights[n]) for n in without if n not in same)
    assert any("mnist-clustering" in record.getMessage() for record in caplog.records)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights from the first run, not again on resume, and no complaint about it unless it was asked for."""
    pixelgan("fit", "--config", SMALL, "--run_dir", "first")
    first = Path("first/checkpoints/last.ckpt")
    pixelgan("fit", "--config", SMALL, "--run_dir", "second", "--init_from", first, "--trainer.max_steps", "0")
    state = {f: torch.load(f, weights_only=True)["state_dict"] for f in Path().glob("*/checkpoints/last.ckpt")}
    assert len(state) == 1  # no step, no checkpoint
    flags = ["--init_from", first, "--model.phases.reconstruction.lr", "1e-30", "--model.phases.generator.lr", "1e-30"]
    pixelgan("fit", "--config", SMALL, "--run_dir", "third", *flags)
    third = torch.load("third/checkpoints/last.ckpt", weights_only=True)
    assert third["global_step"] == 2  # the counters start anew
    for name, tensor in state[first].items():
        if name.startswith("decoder"):
            torch.testing.assert_close(third["state_dict"][name], tensor)
    first.unlink()
    capsys.readouterr()
    pixelgan("fit", "--run_dir", "third", "--ckpt_path", "last", "--trainer.max_epochs", "2")
    said = capsys.readouterr().out
    assert "init_from" not in said
    line = refused(capsys, "test", "--ckpt_path", "third/checkpoints/last.ckpt", "--init_from", first)
    assert line == f"init_from={first} with ckpt_path is not usable: allowed is one of them"


def test_averaged_weights_are_the_ones_that_are_exported() -> None:
    data = DigitsDataModule(batch_size=32)
    model = tiny_model()
    trainer = pl.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[ExponentialMovingAverage(decay=0.9)],
    )

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.save_checkpoint("averaged.ckpt")

    trainer.callbacks.append(Save())  # type: ignore[attr-defined]
    trainer.fit(model, data)
    content = torch.load("averaged.ckpt", weights_only=True)
    pixelgan("export", "--ckpt_path", "averaged.ckpt", "--out", "mine", "--float32")
    exported = PixelGAN.from_pretrained("mine").state_dict()
    differs = 0
    for name, tensor in exported.items():
        if not name.startswith("discriminator"):
            assert torch.equal(tensor, content["state_dict"][name])
            differs += not torch.equal(tensor, content["current_model_state"][name])
    assert differs


def test_a_run_from_before_phases_were_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint is tested and drawn from, and starts new runs; its optimizers were others: it is not continued."""
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    last = Path("run/checkpoints/last.ckpt")
    content = torch.load(last, weights_only=True)
    del content["hyper_parameters"]["phases"]
    former = ("reconstruction", "discriminating", "generating", "agreement", "classification")
    content["hyper_parameters"] |= {**{name: {"lr": 1e-3} for name in former}, "agree": False, "encoder_lr": 2e-4}
    torch.save(content, last)
    said = refused(capsys, "fit", "--run_dir", "run", "--ckpt_path", "last", "--trainer.max_epochs", 9)
    assert "before phases were parts" in said
    pixelgan("test", "--ckpt_path", last)
    pixelgan("sample", "--ckpt_path", last, "--out", "grid.npz", "--num", 1)
    pixelgan("fit", "--config", SMALL, "--init_from", last, "--run_dir", "second")
    phases = PixelGAN.load_from_checkpoint(last).phases
    assert list(phases) == ["reconstruction", "discriminator", "generator", "classification"]
    assert phases["reconstruction"].encoder_lr == 2e-4
