from __future__ import annotations

import gzip
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from realformats import NORB_STEMS, binary_matrix, write_norb

from pixelgan_lightning.datamodules import NORBDataModule, norb
from pixelgan_lightning.datamodules.binary_matrix import open_matrix, read_header, read_matrix, read_rows
from pixelgan_lightning.datamodules.download import PublishedFile
from pixelgan_lightning.errors import ConfigurationError


def part(root: Path, split: str, kind: str) -> Path:
    return root / "smallnorb" / f"{NORB_STEMS[split]}-{kind}.mat"


def data(root: Path, **arguments: Any) -> NORBDataModule:
    return NORBDataModule(str(root), download=False, **arguments)


# --- the binary-matrix format -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int32]), hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)),
    st.integers(1, 5),
)
def test_what_was_written_is_read_in_pieces_of_any_size(values: np.ndarray, chunk: int) -> None:
    file = io.BytesIO(binary_matrix(values))
    dtype, shape = read_header(file)
    assert (dtype, shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(np.concatenate(list(read_rows(file, dtype, shape, chunk))), values)


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_header_or_a_configuration_error(content: bytes, with_magic: bool) -> None:
    file = io.BytesIO((b"\x55\x4c\x3d\x1e" if with_magic else b"") + content)
    try:
        _, shape = read_header(file)
    except ConfigurationError:
        return
    assert file.tell() == 8 + 4 * max(3, len(shape))


def test_the_header_of_the_published_files() -> None:
    """Bytes put down by hand: categories of 24,300 pairs have three dimensions in the header, but one that counts."""
    header = "544c3d1e" + "01000000" + "ec5e0000" + "01000000" + "01000000"
    assert read_header(io.BytesIO(bytes.fromhex(header))) == (np.dtype("<i4"), (24300,))
    header = "554c3d1e" + "04000000" + "ec5e0000" + "02000000" + "60000000" + "60000000"
    assert read_header(io.BytesIO(bytes.fromhex(header))) == (np.dtype("u1"), (24300, 2, 96, 96))


WHOLE = binary_matrix(np.arange(12, dtype=np.int32).reshape(3, 4))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within the header"),
        (WHOLE[:19], "ends within the header"),
        (WHOLE[:-1], "ends in row 2 of 3"),
        (WHOLE + b"\0", "goes on behind its 3 rows"),
        (WHOLE[3::-1] + WHOLE[4:], "magic number is 0x544c3d1e: allowed are 0x1e3d4c55 and 0x1e3d4c54"),
        (b"\x51" + WHOLE[1:], "magic number is 0x1e3d4c51"),
        (WHOLE[:4] + b"\0" + WHOLE[5:], "0 dimensions: allowed are 1 to 8"),
        (WHOLE[:7] + b"\xff" + WHOLE[8:], "-16777214 dimensions: allowed are 1 to 8"),
        (WHOLE[:8] + b"\0" + WHOLE[9:], r"dimensions \[0, 4\]: allowed are numbers >= 1"),
    ],
    ids=["empty", "header", "short", "long", "order", "magic", "none", "negative", "zero"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    path = tmp_path / ("x.mat.gz" if packed else "x.mat")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ConfigurationError, match=f"{path} is not usable: .*{message}") as caught:
        read_matrix(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: x[:15] + b"??" + x[17:], lambda x: b"plain"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    path = tmp_path / "x.mat.gz"
    path.write_bytes(damage(gzip.compress(binary_matrix(values))))
    with pytest.raises(ConfigurationError, match=f"{path} is not usable"):
        read_matrix(path)
    with pytest.raises(ConfigurationError, match=r"is not usable: .*No such file"), open_matrix(tmp_path / "y.mat"):
        pass


# --- the data module ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_images_are_means_of_squares_for_each_camera(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norb, "_CHUNK", 7)  # several pieces, the last one smaller
    contents = write_norb(tmp_path, pairs=25, packed=packed)
    for split in ("train", "test"):
        means = torch.from_numpy(contents[split]["dat"]).double().unfold(2, 3, 3).unfold(3, 3, 3).mean((-2, -1))
        for cameras, channels in (("left", [0]), ("right", [1]), ("both", [0, 1])):
            module = data(tmp_path, cameras=cameras)
            assert module.image_shape == (len(channels), 32, 32)
            images, labels = module.load_split(split)  # type: ignore[arg-type]
            assert (images - means[:, channels]).abs().max() <= 0.5
            assert labels.tolist() == contents[split]["cat"].tolist()
    full, _ = data(tmp_path, side=96).load_split("test")
    assert torch.equal(full, torch.from_numpy(contents["test"]["dat"]))


def test_validation_is_one_toy_of_every_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = write_norb(tmp_path, pairs=100)
    module = data(tmp_path, val_instance=7)
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert any(
        "toy 7 of [4, 6, 7, 8, 9] is for validation" in r.message and "80 unlabelled" in r.message
        for r in caplog.records
    )
    toys = contents["train"]["info"][:, 0]
    for split, expected in (("train", {4, 6, 8, 9}), ("val", {7})):
        rows = module.split_indices(split)  # type: ignore[arg-type]
        assert set(toys[rows].tolist()) == expected
        assert contents["train"]["cat"][rows].max() == 4
    with pytest.raises(ConfigurationError, match=r"val_instance=5 .* \[4, 6, 7, 8, 9\]"):
        data(tmp_path, val_instance=5).setup("fit")


def test_factors_are_those_of_the_files_unknown_ones_too(tmp_path: Path) -> None:
    contents = write_norb(tmp_path)
    factors = data(tmp_path).factors("test")
    assert list(factors) == ["category", "instance", "elevation", "azimuth", "lighting"]
    for column, name in enumerate(["instance", "elevation", "azimuth", "lighting"]):
        assert factors[name].tolist() == contents["test"]["info"][:, column].tolist()
    assert factors["lighting"][0] == -1
    assert factors["category"].dtype == torch.int64


def test_reduced_images_are_kept_and_follow_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_norb(tmp_path, pairs=25)
    read: list[Path] = []
    reduce = norb._reduce
    monkeypatch.setattr(norb, "_reduce", lambda path, side: read.append(path) or reduce(path, side))
    cache = tmp_path / "somewhere" / "else"
    first = data(tmp_path, cache_dir=str(cache))
    first.prepare_data()
    assert len(read) == 2
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{s}-32x32.npz" for s in NORB_STEMS.values())
    before, _ = first.load_split("test")
    assert len(read) == 2
    # The large file may go; what was made of it stays.
    content = part(tmp_path, "test", "dat").read_bytes()
    part(tmp_path, "test", "dat").unlink()
    second = data(tmp_path, cache_dir=str(cache))
    second.prepare_data()
    assert torch.equal(second.load_split("test")[0], before)
    # Another file of the same name is reduced anew.
    part(tmp_path, "test", "dat").write_bytes(content[:-96] + b"\x00" * 96)
    assert not torch.equal(data(tmp_path, cache_dir=str(cache)).load_split("test")[0], before)
    assert len(read) == 3
    kept = cache / f"{NORB_STEMS['test']}-32x32.npz"
    for damage, message in ((kept.read_bytes()[:500], "is damaged"), (b"", "is damaged")):
        kept.write_bytes(damage)
        with pytest.raises(ConfigurationError, match=f"{kept} {message}.*delete it"):
            data(tmp_path, cache_dir=str(cache)).load_split("test")
    np.savez(kept, images=np.zeros((25, 1, 32, 32), np.uint8), made_of=np.zeros(2))
    with pytest.raises(ConfigurationError, match=r"holds uint8 \[25, 1, 32, 32\]"):
        data(tmp_path, cache_dir=str(cache)).load_split("test")


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_norb(tmp_path, pairs=25)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cache_dir='.*file' is not usable .*a folder to write into"):
        data(tmp_path, cache_dir=str(tmp_path / "file")).prepare_data()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ConfigurationError, match=r"is not usable .No space left"):
        data(tmp_path, cache_dir=str(tmp_path / "cache")).prepare_data()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "dat",
            lambda x: x[:, :1],
            r"-dat.mat is not usable: it has uint8 values \[25, 1, 96, 96\]: allowed",
        ),
        ("dat", lambda x: x[..., :48], r"\[25, 2, 96, 48\]"),
        ("dat", lambda x: x.astype(np.int32), r"int32 values \[25, 2, 96, 96\]"),
        ("dat", lambda x: x[:24], "24 pairs and 25 categories: allowed are equal numbers"),
        ("cat", lambda x: x[:24], "24 categories and 25 rows of -info"),
        ("cat", lambda x: x.astype(np.uint8), r"-cat.mat is not usable: it has uint8 values \[25\]: allowed are int32"),
        ("cat", lambda x: x[:, None] + [[0, 0]], r"\[25, 2\]: allowed are int32 \[N\]"),
        ("cat", lambda x: x + 1, "category from 1 to 5: allowed are 0 to 4"),
        ("cat", lambda x: x - 1, "category from -1 to 3: allowed are 0 to 4"),
        ("info", lambda x: x[:, :3], r"\[25, 3\]: allowed are int32 \[N, 4\]"),
        ("info", lambda x: x + np.array([0, 9, 0, 0]), "elevation from 9 to 17: allowed are -1 to 8"),
        ("info", lambda x: x * 0 - 1, "pairs of an unknown instance"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    contents = write_norb(tmp_path, pairs=25)["train"]
    changed = change(contents[kind])
    part(tmp_path, "train", kind).write_bytes(binary_matrix(changed.astype(changed.dtype.name.replace("64", "32"))))
    with pytest.raises(ConfigurationError, match=message) as caught:
        data(tmp_path).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [{"cameras": "middle"}, {"side": 31}, {"side": 6}, {"num_labelled": 7}])
def test_unusable_arguments_are_refused(arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r} is .*allowed are"):
        NORBDataModule(**arguments)


def test_missing_files_are_named_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_norb(tmp_path, pairs=25)
    part(tmp_path, "train", "info").unlink()
    nobody = [PublishedFile(f"https://127.0.0.1:9/{file.name}", file.md5) for file in norb._FILES]
    monkeypatch.setattr(norb, "_FILES", nobody)  # nobody listens there
    for download, reason in ((False, "download=False"), (True, "the download failed: .*refused")):
        module = NORBDataModule(str(tmp_path), download=download)
        with pytest.raises(ConfigurationError, match=f"lacks {NORB_STEMS['train']}-info.mat.gz .{reason}"):
            module.prepare_data()
    with pytest.raises(ConfigurationError, match=r"lacks .*-info"):
        data(tmp_path).setup("fit")
    data(tmp_path).setup("test")  # which does not need it


@pytest.mark.realdata
def test_real_small_norb(real_data: Path, tmp_path: Path) -> None:
    unpack = real_data / "unpack_smallnorb.py"
    if unpack.is_file():  # a JPEG-compressed copy, unpacked by its own script; half of it is enough here
        command = [sys.executable, str(unpack), str(tmp_path / "smallnorb"), "--split", "testing"]
        subprocess.run(command, check=True, capture_output=True)
        for kind, name in (("cat", "cat"), ("info", "info.PARTIAL")):
            source = real_data / "smallnorb" / f"{NORB_STEMS['train']}-{name}.mat"
            os.symlink(source, part(tmp_path, "train", kind))
        root = tmp_path
    else:
        root = real_data
    module = data(root, num_labelled=1000, cache_dir=str(tmp_path / "cache"))
    images, labels = module.load_split("test")
    assert images.shape == (24_300, 2, 32, 32)
    assert labels.bincount().tolist() == [4860] * 5
    # Every combination of the factors is there once.
    factors = module.factors("test")
    assert len(torch.stack(list(factors.values())).unique(dim=1).T) == 24_300
    assert factors["instance"].unique().tolist() == [0, 1, 2, 3, 5]
    # The two cameras see one scene: a pair is far more alike than two pictures of different pairs.
    left, right = images[::97, 0].double(), images[::97, 1].double()
    assert (left - right).abs().mean() < 0.7 * (left - right.roll(1, 0)).abs().mean()
    training = module.factors("train")
    for toy in (4, 6, 7, 8, 9):
        assert (training["instance"] == toy).sum() == 4860
    assert len(module.split_rule("train", training["category"])) == 19_440
    assert len(module.split_rule("val", training["category"])) == 4_860


def test_more_pairs_than_were_published_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_norb(tmp_path, pairs=25, packed=True)
    data(tmp_path).load_split("test")
    monkeypatch.setattr(norb, "_MAX_PAIRS", 24)
    monkeypatch.setattr(norb, "read_rows", None)  # is not called
    cache = str(tmp_path / "cache")
    with pytest.raises(ConfigurationError, match=r"-cat.mat.gz is .*dimensions \[25\]: allowed are 24 values in all"):
        data(tmp_path, cache_dir=cache).load_split("test")
    with pytest.raises(ConfigurationError, match=r"-dat.mat.gz is .*\[25, 2, 96, 96\]: allowed are 442368 values"):
        data(tmp_path, cache_dir=cache).prepare_data()
