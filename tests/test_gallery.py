"""The gallery: which images it shows, and its page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import pixelgan, refused
from PIL import Image
from tinymodel import tiny_model, write_checkpoint

from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.pages.gallery import Looked, choose, gallery
from pixelgan_lightning.priors import Gaussian

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def looked() -> Looked:
    """Six images: two sure and one unsure of category 0, three of category 2, none of category 1."""
    logits = torch.tensor([[5.0, 0, 0], [9.0, 0, 0], [0.2, 0, 0], [0, 0, 50.0], [0, 0, 60.0], [0, 0.0, 1.0]])
    names = ["a.png", "<b>.png", 'c"d.png', "e.png", "f.png", "g.png"]
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, -1, 1, 1, -1, 1])
    classes = CategoryClasses((0, -1, 1), ("cat & dog", "<i>horse"))
    return Looked(images, logits, names, labels, torch.rand(3, 2, 1, 4, 4), classes, classes.names)


def test_typical_and_unsure_images(looked: Looked) -> None:
    chosen = choose(looked.logits, each=2, first=3)
    assert chosen.typical == [[1, 0], [], [4, 3]]  # float32 probabilities of 3 and 4 are both 1
    assert chosen.unsure == [[2], [], [5]]
    assert chosen.first == [2, 5, 0]
    assert chosen.counts == [3, 0, 3]


def test_a_page_of_named_categories(looked: Looked) -> None:
    page = gallery(looked, "run <x>", each=2, first=3)
    assert "<h1>6 images in 2 of 3 categories; of 2 the model is less than 60\N{NO-BREAK SPACE}% sure.</h1>" in page
    assert "Without an image: k=1." in page
    for raw in ("<b>.png", "<i>horse", "run <x>", 'c"d', "cat & dog"):
        assert raw not in page.replace("<b>&lt;b&gt;.png</b>", "")
    assert "cat &amp; dog · k=0" in page
    assert set(re.findall(r'src="(.{5})', page)) == {"data:"}
    # Each category: two drawn, two typical, one unsure; three to look at first.
    assert page.count("<img") == 2 * 5 + 3
    assert page == gallery(looked, "run <x>", each=2, first=3)


def test_images_are_shown_pixel_by_pixel(looked: Looked) -> None:
    import base64
    import io

    page = gallery(looked, "run", each=1, first=1)
    shown = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="c&quot;d.png"', page)
    assert shown is not None
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(shown[1]))))
    assert np.array_equal(pixels, (looked.images[2, 0] * 255).round().numpy())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_checkpoint(tiny_model(), tmp_path / "run" / "checkpoints" / "last.ckpt")
    Path("pictures").mkdir()
    for i in range(5):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(f"pictures/{i}.png")
    pixelgan("gallery", "--ckpt_path", checkpoint, "--images", "pictures", "--num", "2")
    assert "5 images: " in capsys.readouterr().out
    page = (tmp_path / "run" / "gallery.html").read_text()
    assert "<h1>5 images in " in page
    assert "<b>4.png</b>" in page
    (tmp_path / "run" / "config.yaml").write_text("data: {class_path: DigitsDataModule}\n")
    pixelgan("gallery", "--ckpt_path", checkpoint, "--split", "test", "--num", "1", "--out", "test.html")
    assert "<h1>300 images in " in Path("test.html").read_text()


def test_unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_checkpoint(tiny_model(), tmp_path / "run" / "last.ckpt")
    assert "allowed are image files" in refused(
        capsys, "gallery", "--pretrained", "mnist-clustering", "--out", "a.html"
    )
    assert "pretrained without out" in refused(capsys, "gallery", "--pretrained", "mnist-clustering")
    assert "no config.yaml" in re.sub(r"/\S*/", "", refused(capsys, "gallery", "--ckpt_path", checkpoint))
    assert "images='x' is not usable" in refused(capsys, "gallery", "--ckpt_path", checkpoint, "--images", "x")
    gaussian = write_checkpoint(tiny_model(Gaussian(2)), tmp_path / "gaussian" / "last.ckpt")
    assert "prior=Gaussian is not usable" in refused(capsys, "gallery", "--ckpt_path", gaussian)


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(looked: Looked, tmp_path: Path, width: int) -> None:
    """All pictures decode, nothing is wider than the window, and a pointer on a point shows the image's picture."""
    probe = (
        "<script>window.addEventListener('load', () => {"
        "const point = document.querySelector('.point'), box = point.getBoundingClientRect();"
        "point.ownerSVGElement.dispatchEvent(new PointerEvent('pointermove',"
        " {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}));"
        "setTimeout(() => { parent.document.title = JSON.stringify({"
        "images: [...document.images].every(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 30),"
        "tip: document.querySelectorAll('.tip:not([hidden]) img').length, width: window.innerWidth,"
        "fits: document.documentElement.scrollWidth <= window.innerWidth}); }, 200); });</script>"
    )
    text = gallery(looked, "run", each=2, first=3)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    (tmp_path / "page.html").write_text(text.replace(policy[0], "").replace("</body>", probe + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>')
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=3000"]
    seen = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", seen.stdout)
    assert title is not None, seen.stderr
    assert json.loads(title[1].replace("&quot;", '"')) == {"images": True, "tip": 1, "width": width, "fits": True}
