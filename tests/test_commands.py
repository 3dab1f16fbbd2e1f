"""The commands around a trained model: what they draw is what the model draws, and what cannot be done is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from commandline import pixelgan, refused
from PIL import Image
from tinymodel import tiny_model, write_checkpoint

from pixelgan_lightning import commands
from pixelgan_lightning.callbacks import SampleGrid
from pixelgan_lightning.commands import arguments as drawing
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.datamodules.pixels import quantise
from pixelgan_lightning.decoders import ConvDecoder
from pixelgan_lightning.evaluation import figures
from pixelgan_lightning.evaluation.code_rows import code_rows
from pixelgan_lightning.priors import (
    Categorical,
    Gaussian,
    GaussianMixture,
    NoCode,
    Prior,
    ProductPrior,
    SwissRoll,
    Uniform,
)
from pixelgan_lightning.random import keyed_generator

CHECKPOINT = Path("run/checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_with(prior: Prior | None = None, **arguments: Any) -> list[str]:
    """The option that names a checkpoint of a tiny model with ``prior``."""
    write_checkpoint(tiny_model(prior, **arguments), CHECKPOINT)
    return ["--ckpt_path", str(CHECKPOINT)]


def arrays(path: str = "out.npz") -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return dict(content)


def digits(number: int) -> torch.Tensor:
    data = DigitsDataModule()
    data.setup("test")
    return next(iter(data.test_dataloader()))["image"][:number]


# ----------------------------------------------------------------------------------------------------------------- rows


def rows_of(prior: Prior, columns: int = 5, rows: list[int] | None = None) -> tuple[torch.Tensor, list[int] | None]:
    codes, numbers, _ = code_rows(prior, columns, keyed_generator("test"), rows)
    return codes, numbers


def test_a_category_is_a_row() -> None:
    codes, numbers = rows_of(Categorical(4))
    assert numbers == [0, 1, 2, 3]
    assert torch.equal(codes, torch.eye(4).unsqueeze(1).expand(4, 5, 4))
    assert torch.equal(rows_of(Categorical(4), rows=[2, 0])[0], codes[[2, 0]])


def test_a_style_is_a_column() -> None:
    codes, _ = rows_of(ProductPrior([Gaussian(2), Categorical(3)]))
    assert torch.equal(codes[:, :, 2:], torch.eye(3).unsqueeze(1).expand(3, 5, 3))
    assert torch.equal(codes[:, :, :2], codes[:1, :, :2].expand(3, 5, 2))
    assert len(codes[0, :, :2].unique(dim=0)) == 5


def test_a_component_is_a_row() -> None:
    prior = GaussianMixture(6, tangential_std=0.01, radial_std=0.01)
    codes, numbers = rows_of(prior)
    assert numbers == list(range(6))
    angle = 2 * torch.pi * torch.arange(6) / 6
    means = prior.radius * torch.stack([angle.cos(), angle.sin()], 1)
    assert (codes - means.unsqueeze(1)).abs().max() < 0.1
    assert len(codes.flatten(0, 1).unique(dim=0)) == 30
    assert torch.equal(rows_of(prior, rows=[4])[0], codes[[4]])


@pytest.mark.parametrize("prior", [Gaussian(3), Uniform(2), NoCode()], ids=lambda prior: type(prior).__name__)
def test_a_draw_is_a_row(prior: Prior) -> None:
    codes, numbers = rows_of(prior)
    assert numbers is None
    assert codes.shape == (5, 5, prior.code_dim)
    assert torch.equal(codes, codes[:, :1].expand_as(codes))


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (GaussianMixture(5), (4, 3)),
        (ProductPrior([Categorical(5), Gaussian(1)]), (4, 3)),
        (Gaussian(3), (3, 3)),
        (NoCode(), (3, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_callback_draws_these_rows(prior: Prior, shape: tuple[int, int]) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        limit_test_batches=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SampleGrid(columns=3, max_rows=4, seed=7)],
    )
    model = tiny_model(prior)
    trainer.test(model, DigitsDataModule(), verbose=False)
    rows = None if shape[0] == 3 else range(4)
    codes, numbers, categories = code_rows(prior, 3, keyed_generator(7, "sample grid"), rows)
    assert codes.shape[:2] == shape
    images = model.sample(codes.flatten(0, 1), seed=7).unflatten(0, shape)
    labels = [f"k={k}" if categories else f"{k}" for k in numbers] if numbers else None
    figures.image_rows(images, labels).savefig("wanted.png", dpi=128)
    np.testing.assert_array_equal(*map(matplotlib.image.imread, ("images/test_samples-step0000000.png", "wanted.png")))


# --------------------------------------------------------------------------------------------------------------- sample


def test_samples_are_the_models() -> None:
    model = model_with()
    pixelgan("sample", *model, "--out", "out.npz", "--num", 2, "--categories", "7,3", "--seed", 5, "--temperature", 0.5)
    got = arrays()
    codes = torch.eye(10)[[7, 7, 3, 3]]
    np.testing.assert_array_equal(got["codes"], codes)
    np.testing.assert_array_equal(got["images"], tiny_model().sample(codes, seed=5, temperature=0.5))
    assert (got["seed"], got["temperature"]) == (5, 0.5)


@pytest.mark.parametrize("many", [1, 7])
def test_many_samples_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(drawing, "BATCH", 3)
    pixelgan("sample", *model_with(Gaussian(2)), "--out", "out.npz", "--num", many)
    got = arrays()
    assert len(np.unique(got["images"], axis=0)) == len(got["images"]) == many  # no part repeats another's draws


@pytest.mark.parametrize(
    ("prior", "number"),
    [
        (Categorical(4), 40),
        (ProductPrior([Categorical(4), Gaussian(2)]), 40),
        (GaussianMixture(3), 30),
        (SwissRoll(num_components=2), 20),
        (Gaussian(2), 64),
        (NoCode(), 64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_prior_has_a_grid(prior: Prior, number: int) -> None:
    model = model_with(prior)
    pixelgan("sample", *model, "--out", "out.npz")
    assert arrays()["images"].shape == (number, 1, 8, 8)
    pixelgan("sample", *model, "--out", "out.png", "--num", 2)
    assert Path("out.png").is_file()
    assert not list(Path().glob(".*.tmp"))


def test_the_picture_shows_the_samples() -> None:
    model = model_with()
    pixelgan("sample", *model, "--out", "out.png", "--num", 3, "--categories", "1,2")
    pixelgan("sample", *model, "--out", "out.npz", "--num", 3, "--categories", "1,2")
    images = torch.from_numpy(arrays()["images"]).view(2, 3, 1, 8, 8)
    figures.image_rows(images, ["k=1", "k=2"]).savefig("wanted.png", dpi=128)
    np.testing.assert_array_equal(*map(matplotlib.image.imread, ("out.png", "wanted.png")))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_codes_from_a_file(suffix: str) -> None:
    codes = torch.randn(3, 2)
    if suffix == ".npz":
        np.savez("codes.npz", codes=codes.numpy(), seed=1)
    else:
        torch.save(codes, "codes.pt")
    pixelgan("sample", *model_with(Gaussian(2)), "--out", "out.npz", "--codes", f"codes{suffix}", "--num", 2)
    got = arrays()
    np.testing.assert_array_equal(got["codes"], codes.repeat_interleave(2, 0))
    np.testing.assert_array_equal(got["images"], tiny_model(Gaussian(2)).sample(codes.repeat_interleave(2, 0)))


def test_samples_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    model = model_with()
    out = ["--out", "out.npz"]
    Path("text.npz").write_text("text")
    Path("text.ckpt").write_text("text")
    np.savez("wide.npz", codes=np.zeros((2, 11)))
    np.savez("names.npz", a=np.zeros((2, 10)), b=1)
    np.savez("nan.npz", codes=np.full((2, 10), np.nan))
    for arguments, words in [
        ([*out], "one of the arguments --ckpt_path --pretrained is required"),
        ([*model], "--out"),
        ([*model, "--out", "out.jpg"], "out=out.jpg is not usable: allowed are names that end in .png or .npz"),
        ([*model, "--out", "none/out.png"], "out=none/out.png is not usable: there is no folder none"),
        (["--ckpt_path", "none.ckpt", *out], "ckpt_path=none.ckpt is not usable: there is no such file"),
        (["--ckpt_path", "text.ckpt", *out], "ckpt_path=text.ckpt is not usable: allowed are checkpoints"),
        (["--pretrained", "none", *out], "pretrained=none is not usable: allowed are"),
        ([*model, *out, "--pretrained", "none"], "not allowed with argument"),
        ([*model, *out, "--num", "0"], "--num: 0 is not usable: allowed are integers >= 1"),
        ([*model, *out, "--temperature", "0"], "--temperature: 0 is not usable: allowed are finite numbers > 0"),
        ([*model, *out, "--categories", "3,x"], "--categories: x is not usable"),
        ([*model, *out, "--categories", "3,10"], "categories=3,10 is not usable: allowed are 0 to 9"),
        ([*model, *out, "--codes", "none.npz"], "codes=none.npz is not usable: there is no such file"),
        ([*model, *out, "--codes", "text.npz"], "codes=text.npz is not usable"),
        ([*model, *out, "--codes", "text.ckpt"], "codes=text.ckpt is not usable: allowed are .npz and .pt files"),
        ([*model, *out, "--codes", "names.npz"], "it has a, b; allowed is an array codes"),
        ([*model, *out, "--codes", "nan.npz"], "finite"),
        ([*model, *out, "--codes", "wide.npz"], "codes=wide.npz of shape [2, 11] is not usable: allowed is [N, 10]"),
        ([*model, *out, "--codes", "wide.npz", "--categories", "1"], "codes together with categories"),
        ([*model, *out, "--colour", "red"], "unrecognized arguments: --colour red"),
    ]:
        assert words in refused(capsys, "sample", *arguments)
    assert not Path("out.npz").exists()
    line = refused(capsys, "sample", *model_with(Gaussian(2)), *out, "--categories", "1")
    assert line == "categories=1 with prior=Gaussian is not usable: allowed are priors with categories or components"


def test_a_failed_write_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.npz").write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(SystemExit) as exit_:
        pixelgan("sample", *model_with(), "--out", "out.npz", "--num", 1)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: out.npz cannot be written: no space\n"
    assert Path("out.npz").read_text() == "old"
    assert not list(Path().glob(".*.tmp"))


# ------------------------------------------------------------------------------------------------------------- complete


def test_completions_are_the_models() -> None:
    images = digits(3)
    np.savez("images.npz", images=images.numpy())
    options = ["--images", "images.npz", "--rows", 5, "--draws", 2, "--seed", 4, "--temperature", 0.7]
    pixelgan("complete", *model_with(), "--out", "out.npz", *options)
    got = arrays()
    twice = images.repeat_interleave(2, 0)
    wanted = tiny_model().complete(twice, 5, seed=4, temperature=0.7)
    np.testing.assert_array_equal(got["images"], wanted.view(3, 2, 1, 8, 8))
    np.testing.assert_array_equal(got["inputs"], images)
    np.testing.assert_array_equal(got["images"][:, :, :, :5], images.unsqueeze(1)[:, :, :, :5].expand(3, 2, 1, 5, 8))
    np.testing.assert_allclose(got["codes"], tiny_model().encode(images))


def test_completions_with_the_code_of_another_image() -> None:
    model = tiny_model(Gaussian(2))
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter *= 30  # codes so far apart that they make another picture
    write_checkpoint(model, CHECKPOINT)
    images = digits(4)
    np.savez("images.npz", images=images[:3].numpy())
    np.savez("other.npz", images=images[3:].numpy())
    np.savez("each.npz", images=images[[3, 1, 2]].numpy())
    got = {}
    for name, codes_of in (("own", []), ("other", ["--codes_of", "other.npz"]), ("each", ["--codes_of", "each.npz"])):
        options = ["--images", "images.npz", *codes_of, "--rows", 2, "--draws", 1]
        pixelgan("complete", "--ckpt_path", CHECKPOINT, "--out", "out.npz", *options)
        got[name] = arrays()
    codes = model.encode(images[3:]).expand(3, -1)
    np.testing.assert_allclose(got["other"]["codes"], codes, rtol=1e-6)
    np.testing.assert_array_equal(got["other"]["images"][:, 0], model.complete(images[:3], 2, codes))
    np.testing.assert_array_equal(got["own"]["images"][:, 0], model.complete(images[:3], 2))
    assert not np.array_equal(got["own"]["images"], got["other"]["images"])  # with the same draws: the code matters
    np.testing.assert_array_equal(got["each"]["images"][0], got["other"]["images"][0])  # a code for each image
    np.testing.assert_array_equal(got["each"]["images"][1:], got["own"]["images"][1:])


def test_images_of_the_runs_data() -> None:
    model = model_with()
    data = {"class_path": "pixelgan_lightning.datamodules.DigitsDataModule", "init_args": {"batch_size": 32}}
    Path("run/config.yaml").write_text(yaml.safe_dump({"seed_everything": 0, "data": data}))
    pixelgan("complete", *model, "--out", "out.npz", "--rows", 4, "--num", 5)
    np.testing.assert_array_equal(arrays()["inputs"], digits(5))
    pixelgan("complete", *model, "--out", "out.png", "--rows", 4, "--num", 5)
    assert matplotlib.image.imread("out.png").shape[:2] == (5 * 56 + 4 * 2, 6 * 56 + 5 * 2)


def test_images_of_the_runs_data_have_its_draws() -> None:
    model = model_with()
    data = {"class_path": "DigitsDataModule", "init_args": {"binarization": "dynamic"}}
    for seed in (0, 7):
        Path("run/config.yaml").write_text(yaml.safe_dump({"seed_everything": seed, "data": data}))
        pixelgan("complete", *model, "--out", "out.npz", "--rows", 4, "--num", 5)
        module = DigitsDataModule(binarization="dynamic", seed=seed)
        module.setup("test")
        np.testing.assert_array_equal(arrays()["inputs"], next(iter(module.test_dataloader()))["image"][:5])


@pytest.mark.parametrize("as_folder", [False, True])
def test_images_of_pictures(as_folder: bool) -> None:
    images = (digits(3) * 16).round()
    levels = (images * 255 / 16).round().to(torch.uint8)
    Path("pictures").mkdir()
    for i, image in enumerate(levels):
        Image.fromarray(image[0].numpy()).save(f"pictures/{i}.png")
    path = "pictures" if as_folder else "pictures/1.png"
    pixelgan("complete", *model_with(), "--out", "out.npz", "--rows", 8, "--images", path)
    wanted = quantise(levels, 256, 17).float() / 16
    np.testing.assert_array_equal(arrays()["inputs"], wanted if as_folder else wanted[1:2])


def test_pictures_are_what_predict_sees(capsys: pytest.CaptureFixture[str]) -> None:
    """16 bits, transparency, another size, levels of the run's own: one reader for all commands."""
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save("deep.png")
    shape = np.zeros((16, 16, 4), dtype=np.uint8)
    shape[4:12, 4:12, 3] = 255  # black on nothing
    Image.fromarray(shape).save("cut.png")
    model = model_with()
    for name, wanted in (("deep.png", ramp[None, None] / 65535), ("cut.png", None)):
        pixelgan("complete", *model, "--out", "out.npz", "--rows", 8, "--images", name)
        inputs = arrays()["inputs"]
        if wanted is not None:
            assert np.abs(inputs - wanted).max() < 1 / 16
        else:
            assert (inputs[0, 0, 0] == 1).all()
            assert (inputs[0, 0, 3:5, 3:5] == 0).all()
    content = torch.load(CHECKPOINT, weights_only=True)
    data = {"class_path": "ImageTensorDataModule", "init_args": {"train_path": "x.npz", "native_levels": 17}}
    stored = digits(3).mul(16).round().to(torch.uint8)
    np.savez("levels.npz", images=stored.numpy())
    content["pixelgan_lightning_config"] = yaml.safe_dump({"data": data})
    torch.save(content, CHECKPOINT)
    pixelgan("complete", *model, "--out", "out.npz", "--rows", 8, "--images", "levels.npz", "--num", 3)
    np.testing.assert_allclose(arrays()["inputs"], stored / 16)


def test_completions_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    model = [*model_with(), "--out", "out.npz", "--rows", "4"]
    np.savez("images.npz", images=digits(3).numpy())
    np.savez("two.npz", images=digits(2).numpy())
    np.savez("flat.npz", images=np.zeros((3, 8)))
    np.savez("dark.npz", images=-np.ones((3, 1, 8, 8)))
    Path("empty").mkdir()
    Path("text.png").write_text("text")
    for arguments, words in [
        ([], "there is no run/config.yaml"),
        (["--images", "none.png"], "none.png"),
        (["--images", "text.png"], "images='text.png' is not usable: text.png is damaged"),
        (["--images", "flat.npz"], "images='flat.npz' is not usable: its images are [3, 8]"),
        (["--images", "dark.npz"], "images='dark.npz' is not usable: its images are"),
        (["--images", "empty"], "images='empty' is not usable: it is empty"),
        (["--images", "images.txt"], "images='images.txt' is not usable"),
        (["--images", "images.npz", "--codes_of", "empty"], "codes_of='empty' is not usable: it is empty"),
        (["--images", "images.npz", "--rows", "9"], "rows=9 is not usable: allowed are 0 to 8"),
        (["--images", "images.npz", "--codes_of", "two.npz"], "codes_of=two.npz with 2 images is not usable"),
    ]:
        assert words in refused(capsys, "complete", *model, *arguments)
    pixelgan("export", "--ckpt_path", CHECKPOINT, "--out", "mine")
    line = refused(capsys, "complete", "--pretrained", "mine", "--out", "out.npz", "--rows", "4")
    assert line.startswith("pretrained without images is not usable")
    assert not Path("out.npz").exists()


# -------------------------------------------------------------------------------------------------------------- compare


def test_models_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """PixelCNN without a code, autoencoder with independent pixels, PixelGAN: the panels are the models' samples."""
    models = {
        "pixelcnn": tiny_model(NoCode()),
        "aae": tiny_model(Gaussian(2), decoder=ConvDecoder(channels=[4, 4])),
        "pixelgan": tiny_model(Gaussian(2)),
    }
    paths = [write_checkpoint(model, Path(f"{name}/checkpoints/last.ckpt")) for name, model in models.items()]
    pixelgan("compare", *paths, "--out", "out.png", "--side", 3, "--seed", 2)
    panels = [model.sample(model.prior.sample(9, keyed_generator("codes", 2)), seed=2) for model in models.values()]
    figures.global_local(panels, list(models)).savefig("wanted.png", dpi=128)
    np.testing.assert_array_equal(*map(matplotlib.image.imread, ("out.png", "wanted.png")))
    pixelgan("export", "--ckpt_path", paths[0], "--out", "mine")
    pixelgan("compare", "mine", paths[1], "--out", "out.png", "--side", 2, "--titles", "A,B")
    assert "titles=A" in refused(capsys, "compare", *paths, "--out", "out.png", "--titles", "A")
    assert "pretrained=none" in refused(capsys, "compare", "none", "--out", "out.png")
    assert "out=out.npz" in refused(capsys, "compare", *paths, "--out", "out.npz")


def test_a_panel_for_each_model() -> None:
    images = torch.rand(4, 1, 8, 8)
    figures.global_local([images, 1 - images], ["one", "a long title"]).savefig("out.png", dpi=128)
    picture = matplotlib.image.imread("out.png")
    assert picture.shape[0] == 22 + 2 * 56 + 2
    tile = picture[22:, :, 0]
    for first, value in [(0, images[0, 0, 0, 0]), (58, images[1, 0, 0, 0])]:
        np.testing.assert_allclose(tile[:7, first : first + 7], float(value), atol=1 / 255)
    second = picture.shape[1] - max(114, 8 * len("a long title") + 4)
    np.testing.assert_allclose(tile[:7, second : second + 7], 1 - float(images[0, 0, 0, 0]), atol=1 / 255)


# ------------------------------------------------------------------------------------------------------------- the help


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands.COMMANDS:
        with pytest.raises(SystemExit) as exit_:
            pixelgan(command, "--help")
        assert exit_.value.code == 0
        assert f"pixelgan {command}" in capsys.readouterr().out
