from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from realformats import write_mnist, write_svhn, write_svhn_file
from scipy.io import savemat

from pixelgan_lightning.datamodules import (
    FashionMNISTDataModule,
    MNISTDataModule,
    SVHNDataModule,
    download,
    norb,
    svhn,
)
from pixelgan_lightning.datamodules.download import PublishedFile, fetch
from pixelgan_lightning.errors import ConfigurationError


def test_images_and_digits_are_those_that_were_stored(tmp_path: Path) -> None:
    images, digits = write_svhn_file(tmp_path / "SVHN" / "train_32x32.mat", 40)
    write_svhn_file(tmp_path / "SVHN" / "test_32x32.mat", 20)
    module = SVHNDataModule(str(tmp_path), num_val=10)
    read, labels = module.load_split("train")
    assert torch.equal(read, images)
    assert torch.equal(labels, digits)
    assert labels.unique().tolist() == list(range(10))  # the stored 10 is a 0
    small = SVHNDataModule(str(tmp_path), num_val=10, side=16)
    means = sum(images[:, :, i::2, j::2].double() for i in range(2) for j in range(2)) / 4
    assert (small.load_split("train")[0] - means).abs().max() <= 0.5
    with pytest.raises(ConfigurationError, match=r"side=20 .*32, 16 and 8"):
        SVHNDataModule(side=20)


def test_validation_is_stratified_and_a_function_of_its_seed(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    module = SVHNDataModule(str(tmp_path), num_val=100)
    val = module.split_indices("val")
    assert module.load_split("train")[1][val].bincount().tolist() == [10] * 10
    assert not torch.equal(val, torch.arange(200, 300))
    assert not torch.equal(val, SVHNDataModule(str(tmp_path), num_val=100, split_seed=1).split_indices("val"))
    for num_val in (0, 300):
        with pytest.raises(ConfigurationError, match=f"num_val={num_val} .*300 images.* 1 to 299"):
            SVHNDataModule(str(tmp_path), num_val=num_val).setup("fit")


def test_extra_images_are_for_training_without_their_labels(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    without = SVHNDataModule(str(tmp_path), num_val=100, num_labelled=50)
    with pytest.raises(ConfigurationError, match=r"lacks extra_32x32.mat"):
        SVHNDataModule(str(tmp_path), extra=True, download=False).prepare_data()
    write_svhn_file(tmp_path / "SVHN" / "extra_32x32.mat", 70)
    module = SVHNDataModule(str(tmp_path), num_val=100, num_labelled=50, extra=True, labelled_batch_size=50)
    module.setup()
    assert torch.equal(module.split_indices("val"), without.split_indices("val"))
    assert torch.equal(module.labelled_indices, without.labelled_indices)  # type: ignore[arg-type]
    assert torch.equal(
        module.split_indices("train"), torch.cat([without.split_indices("train"), torch.arange(300, 370)])
    )
    assert module.load_split("train")[1][300:].unique().tolist() == [-1]


def test_a_part_of_the_data_is_read_and_said_to_be_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path)
    with caplog.at_level(logging.INFO):
        SVHNDataModule(str(tmp_path), num_val=100).setup("test")
        (line,) = [record.message for record in caplog.records]
        assert "found 60 images in " in line
        assert "26032 that were published" in line
        caplog.clear()
        monkeypatch.setitem(svhn._PUBLISHED_SIZE, svhn._TEST, 60)
        SVHNDataModule(str(tmp_path), num_val=100).setup("test")
        assert caplog.records == []


GOOD = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.array([[10], [1], [2], [3]], np.uint8)}


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"X": GOOD["X"].astype(np.float64)}, "X is float64"),
        ({"X": GOOD["X"][:28]}, r"X is uint8 \[28, 32, 3, 4\]"),
        ({"X": GOOD["X"].transpose(3, 0, 1, 2)}, r"X is uint8 \[4, 32, 32, 3\]"),
        ({"X": GOOD["X"][..., :3]}, "3 images and 4 digits"),
        ({"y": GOOD["y"] + 1}, "digits from 2 to 11"),
        ({"y": GOOD["y"] - 1}, "digits from 0 to 9"),
        ({"y": np.array([[1.0], [2.0], [np.nan], [3.0]])}, "digits from nan"),
        ({"X": None}, "KeyError: 'X'"),
        ({"y": None}, "KeyError: 'y'"),
    ],
)
def test_files_that_do_not_hold_what_they_should_are_refused(
    tmp_path: Path, changes: dict[str, Any], seen: str
) -> None:
    write_svhn(tmp_path)
    content = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    savemat(tmp_path / "SVHN" / "train_32x32.mat", content)
    with pytest.raises(ConfigurationError, match=f"train_32x32.mat is damaged or no SVHN file .{seen}") as caught:
        SVHNDataModule(str(tmp_path)).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 3, 60, 128, 200, 2000, 20_000])
def test_a_truncated_file_is_named(tmp_path: Path, length: int) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "SVHN" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigurationError, match=r"train_32x32.mat is damaged"):
        SVHNDataModule(str(tmp_path)).setup("fit")


def test_more_values_than_were_published_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path)
    monkeypatch.setattr(svhn, "_MAX_VALUES", 300 * 32 * 32 * 3)
    SVHNDataModule(str(tmp_path), num_val=100).setup("fit")
    monkeypatch.setattr(svhn, "_MAX_VALUES", 300 * 32 * 32 * 3 - 1)
    monkeypatch.setattr("scipy.io.loadmat", None)  # is not called
    with pytest.raises(ConfigurationError, match=r"train_32x32.mat is damaged .*more than 921599 values"):
        SVHNDataModule(str(tmp_path), num_val=100).setup("fit")


# --- downloads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the folder ``server``, without encryption, which is allowed here."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/elsewhere/"))
                self.end_headers()
            else:
                super().do_GET()

    monkeypatch.setattr(download, "SCHEME", "http")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "server")))
    Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


def test_nothing_is_fetched_without_encryption(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own scheme stands for https here: it is not left on the way either."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "file").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    fetch(PublishedFile(f"{server}/elsewhere/{server}/file", md5), tmp_path / "here")
    assert (tmp_path / "here" / "file").read_bytes() == b"content"
    for other in ("https", "ftp"):
        with pytest.raises(OSError, match=f"{other}://somewhere/file is not usable: allowed is http"):
            fetch(PublishedFile(f"{server}/elsewhere/{other}://somewhere/file", md5), tmp_path / "there")
    monkeypatch.undo()
    with pytest.raises(OSError, match=f"{server}/file is not usable: allowed is https"):
        fetch(PublishedFile(f"{server}/file", md5), tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())
    files = [svhn._TRAIN, svhn._TEST, svhn._EXTRA, *norb._FILES]
    assert {file.url.partition(":")[0] for file in files} == {"https"}
    assert MNISTDataModule.url.startswith("https://")
    assert FashionMNISTDataModule.url.startswith("https://")


def test_mnist_is_fetched_compressed(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, train=60, test=20)
    raw = tmp_path / "MNIST" / "raw"
    whole = MNISTDataModule(str(tmp_path), download=False).load_split("train")
    (tmp_path / "server").mkdir()
    resources = []
    for path in sorted(raw.iterdir()):
        packed = tmp_path / "server" / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", resources)
    monkeypatch.setattr(MNISTDataModule, "url", server)
    module = MNISTDataModule(str(tmp_path / "here"), num_val=20)
    module.prepare_data()
    assert len(list((tmp_path / "here" / "MNIST" / "raw").iterdir())) == len(resources) == 4
    assert all(torch.equal(a, b) for a, b in zip(module.load_split("train"), whole, strict=True))


def test_a_download_gets_its_name_once_its_checksum_is_right(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path / "server")
    served = tmp_path / "server" / "SVHN"
    test, train = (
        PublishedFile(f"{server}/SVHN/{path.name}", hashlib.md5(path.read_bytes()).hexdigest())
        for path in sorted(served.iterdir())
    )
    monkeypatch.setattr(svhn, "_TEST", test)
    monkeypatch.setattr(svhn, "_TRAIN", train._replace(md5="0" * 32))
    module = SVHNDataModule(str(tmp_path / "here"))
    with pytest.raises(ConfigurationError, match=r"lacks train_.*, test_.* .the download failed: .*corrupt"):
        module.prepare_data()
    assert list((tmp_path / "here" / "SVHN").iterdir()) == []

    monkeypatch.setattr(svhn, "_TRAIN", train)
    module.prepare_data()
    assert {path.name for path in (tmp_path / "here" / "SVHN").iterdir()} == {"train_32x32.mat", "test_32x32.mat"}
    for path in served.iterdir():
        path.unlink()
    module.prepare_data()  # what is there is not fetched again


def test_without_network_the_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TRAIN", "_TEST"):
        nobody = f"https://127.0.0.1:9/{getattr(svhn, name).name}"  # nobody listens there
        monkeypatch.setattr(svhn, name, PublishedFile(nobody, "0" * 32))
    for allowed, reason in ((False, "download=False"), (True, "the download failed: .*refused")):
        module = SVHNDataModule(str(tmp_path), download=allowed)
        message = f"data_dir='{tmp_path}' lacks train_32x32.mat, test_32x32.mat .*{reason}.*in SVHN$"
        with pytest.raises(ConfigurationError, match=message) as caught:
            module.prepare_data()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"lacks train_32x32.mat"):
        module.setup("fit")
    with pytest.raises(OSError, match="refused"):
        fetch(svhn._TRAIN, tmp_path)


@pytest.mark.realdata
def test_real_svhn(real_data: Path) -> None:
    module = SVHNDataModule(str(real_data), num_val=2000, num_labelled=1000, download=False)
    module.prepare_data()
    module.setup()
    assert sum(len(module.split_indices(split)) for split in ("train", "val")) == len(module.load_split("train")[1])
    for source in ("train", "test"):
        images, labels = module.load_split(source)  # type: ignore[arg-type]
        counts = labels.bincount(minlength=10)
        # House numbers: 1 is the most frequent digit, and digits resemble their neighbours in brightness.
        assert counts.argmax() == 1
        assert counts.min() > 0.05 * len(labels)
        assert 100 < images.double().mean() < 130
    assert module.labelled_indices is not None
    assert module.load_split("train")[1][module.labelled_indices].bincount().tolist() == [100] * 10
