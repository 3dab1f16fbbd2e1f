"""Runs of the command line in forked processes: they need no new imports, and they can be killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from commandline import pixelgan

KILLED = -signal.SIGKILL


def kill_this_process() -> None:
    """End as by ``kill -9``: no ``finally``, no flushing, no exit handlers."""
    os.kill(os.getpid(), signal.SIGKILL)


def start(run: Callable[[], object], environment: Mapping[str, str] | None = None, output: Path | None = None) -> int:
    """Fork a process that calls ``run``; its id. What it prints goes to the file ``output``, or else nowhere."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        descriptor = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.update(environment or {})
        torch.set_num_threads(1)  # there are no others after a fork, see conftest.py
        run()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, timeout: float = 300) -> int:
    """The exit status of a forked process, or minus the signal that ended it."""
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"process {pid} did not end")
        time.sleep(0.01)


def start_ranks(size: int, *args: object, prepare: Callable[[int], None] = lambda rank: None) -> list[int]:
    """Start a command as ``size`` processes of one run; their ids by rank."""

    def run(rank: int) -> None:
        prepare(rank)
        pixelgan(*args, "--trainer.strategy", "ddp", "--trainer.devices", size)

    return start_as_ranks(size, run)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_as_ranks(size: int, run: Callable[[int], object]) -> list[int]:
    """Call ``run(rank)`` in ``size`` processes, as ``torchrun`` does; their ids by rank."""
    port = free_port()

    def as_rank(rank: int) -> None:
        from pytorch_lightning.utilities.rank_zero import rank_zero_only

        rank_zero_only.rank = rank  # decided when Lightning is imported, which was before the fork
        run(rank)

    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "NODE_RANK": "0"}
    return [
        start(
            lambda rank=rank: as_rank(rank),
            {**addresses, "LOCAL_RANK": str(rank), "RANK": str(rank)},
            Path(f"rank{rank}"),
        )
        for rank in range(size)
    ]
