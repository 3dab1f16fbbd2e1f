"""What a process does with the memory it frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from pixelgan_lightning.training.memory import reuse_memory

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

PROGRAM = """
import resource, torch
from pixelgan_lightning import cli
from pixelgan_lightning.training.memory import reuse_memory

def share_of_new_pages():  # of ten uses of 64 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**26 / 10

def command_line():
    try:
        cli.main([])
    except SystemExit:
        return True

print(WORK(), share_of_new_pages())
"""


def _in_a_new_process(work: str) -> tuple[bool, float]:
    """What ``work`` returns, and which share of the memory used afterwards was new to the process."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    command = [sys.executable, "-c", PROGRAM.replace("WORK", work)]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    done, share = lines.splitlines()[-1].split()
    return done == "True", float(share)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("work", ["reuse_memory", "command_line"])
def test_freed_memory_is_used_again(work: str) -> None:
    done, share = _in_a_new_process(work)
    assert done
    assert share < 0.5  # without it 1


@pytest.mark.parametrize("name", VARIABLES)
def test_the_environment_comes_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert reuse_memory() is False


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert reuse_memory() is False


@pytest.mark.skipif(sys.platform != "linux", reason="it does nothing elsewhere")
def test_older_versions_get_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc once refused thresholds beyond 32 MB; the other threshold must not be set if this one cannot be."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    said: list[tuple[int, int]] = []

    class Library:
        largest = 2**25

        def mallopt(self, what: int, value: int) -> int:
            said.append((what, value))
            return int(what == -1 or value <= self.largest)

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library())
    assert reuse_memory() is True
    assert said == [(-3, 2**31 - 1), (-3, 2**25), (-1, 2**31 - 1)]
    said.clear()
    Library.largest = 0
    assert reuse_memory() is False
    assert [what for what, _ in said] == [-3, -3]
