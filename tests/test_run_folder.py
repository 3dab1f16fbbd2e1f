"""One run folder has one writer; damaged files and full disks end in one line."""

from __future__ import annotations

import os
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commandline import SMALL, load_step, pixelgan, refused
from processes import start, start_ranks, wait

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.checkpoint_io import AtomicCheckpointIO
from pixelgan_lightning.files.run_folder import LOCK, OWNER

AGAIN = ("fit", "--run_dir", "run", "--ckpt_path", "last", "--trainer.max_epochs", 2)


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def halting(at: str) -> Callable[[], None]:
    """Continue a run, and wait for ever in its first batch once the file ``at`` says so."""

    def run() -> None:
        def wait_in(self: PixelGAN, batch: object, batch_idx: int) -> None:
            Path(at).touch()
            signal.pause()

        PixelGAN.training_step = wait_in  # type: ignore[method-assign]
        pixelgan(*AGAIN)

    return run


def until_there(path: str) -> None:
    for _ in range(6000):
        if Path(path).exists():
            return
        signal.sigtimedwait([], 0.01)
    raise TimeoutError(path)


def test_a_second_fit_in_a_run_folder_is_refused_until_the_first_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    assert not Path("run", OWNER).exists()
    first = start(halting("begun"))
    until_there("begun")
    try:
        said = refused(capsys, *AGAIN)
        assert f"run_dir=run is not usable: process {first} on {os.uname().nodename} trains there" in said
        pixelgan("test", "--ckpt_path", "run/checkpoints/last.ckpt")  # reads, and writes files of its own
        Path("run/checkpoints/.last.ckpt.abc.tmp").touch()  # as a kill in a save leaves it
    finally:
        os.kill(first, signal.SIGKILL)
        wait(first)
    pixelgan(*AGAIN)
    assert load_step(Path("run")) == 4
    assert sorted(path.name for path in Path("run").rglob(".*")) == [LOCK]


def test_processes_of_one_run_do_not_refuse_each_other() -> None:
    pids = start_ranks(2, "fit", "--config", SMALL, "--run_dir", "run")
    assert [wait(pid, timeout=120) for pid in pids] == [0, 0]


def test_writers_do_not_share_an_unfinished_file() -> None:
    def write() -> None:
        for _ in range(50):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "filler": "x" * 10_000}, "a.ckpt")

    write()
    pids = [start(write), start(write)]
    for _ in range(50):
        assert AtomicCheckpointIO().load_checkpoint("a.ckpt")["state_dict"] == {}
    assert [wait(pid) for pid in pids] == [0, 0]
    assert os.listdir() == ["a.ckpt"]


def test_every_flipped_byte_of_the_content_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    last = Path("run/checkpoints/last.ckpt")
    whole = last.read_bytes()
    (other,) = (path for path in last.parent.glob("*.ckpt") if path != last)
    with zipfile.ZipFile(last) as archive:
        parts = [part for part in archive.infolist() if part.file_size]
    for part in parts[:: len(parts) // 20]:
        name, extra = struct.unpack("<26xHH", whole[part.header_offset : part.header_offset + 30])
        damaged = bytearray(whole)
        damaged[part.header_offset + 30 + name + extra + part.file_size // 2] ^= 1
        last.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match=f"; whole is {other}$"):
            AtomicCheckpointIO().load_checkpoint(last)
    assert f"whole is {other}" in refused(capsys, "test", "--ckpt_path", last)
    other.write_bytes(b"")
    assert "whole is" not in refused(capsys, "test", "--ckpt_path", last)


@pytest.mark.parametrize(
    "part", ["loops", "callbacks", "optimizer_states", "state_dict", "hyper_parameters", "pixelgan_lightning"]
)
def test_a_checkpoint_whose_parts_are_something_else_is_refused_in_one_line(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pixelgan("fit", "--config", SMALL, "--run_dir", "run")
    last = Path("run/checkpoints/last.ckpt")
    whole = torch.load(last, weights_only=True)
    name = next(iter(whole[part])) if isinstance(whole[part], dict) else None
    for wrong in ([3], -1, "text", {"a": {"b": None}}, {name: 1.5}):
        torch.save({**whole, part: wrong}, last)
        status = 0
        try:
            pixelgan(*AGAIN)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        last_line = capsys.readouterr().err.splitlines()[-1:]
        refused_so = status == 2 and last_line[0].startswith("error: ")
        assert refused_so or (status == 0 and part in ("callbacks", "pixelgan_lightning"))  # what nobody asks for


@pytest.mark.parametrize(("what", "limit"), [("logs", 4000), ("pictures", 1000)])
def test_a_full_disk_is_one_line_whoever_writes(what: str, limit: int) -> None:
    """Files beyond the limit meet the error of a full disk."""
    callbacks = "{callbacks: [{class_path: SampleGrid}], logger: false}" if what == "pictures" else "{}"
    Path("overlay.yaml").write_text(f"trainer: {callbacks}\n")

    def full() -> None:
        original = PixelGAN.on_train_start

        def replaced(self: PixelGAN) -> None:
            original(self)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        PixelGAN.on_train_start = replaced  # type: ignore[method-assign]
        options = ["--trainer.max_epochs", 60, "--checkpoint.every_n_train_steps", 1000]
        pixelgan("fit", "--config", SMALL, "--config", "overlay.yaml", "--run_dir", "run", *options)

    assert wait(start(full, output=Path("output"))) == 1
    said = Path("output").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: ")
    assert said.endswith("File too large\n")
    assert not list(Path("run").rglob(".*.tmp"))
