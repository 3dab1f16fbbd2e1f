"""A section of ``make gpu``: the training step in one process and, where there are two GPUs, in two, with NCCL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from gpu_result import result

STEPS = str(Path(__file__).with_name("gpu_steps.py"))


def main() -> None:
    small = "--small" in sys.argv[1:]
    gpus = torch.cuda.device_count()
    if gpus < 2 and not small:
        result(skipped=f"two processes need two GPUs, there is {gpus or 'none'}")
        return
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        subprocess.run([sys.executable, *launcher, STEPS, "processes", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
