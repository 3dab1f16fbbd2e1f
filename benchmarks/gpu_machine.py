"""A section of ``make gpu``: the machine, its versions, and the speed of its own convolution."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess

import torch
from gpu_result import result
from gpu_timing import PRECISIONS, device, seconds_per_call, set_precision
from timing import conv_flops, machine


def conv_speed(precision: str, channels: int, batch: int) -> float:
    """FLOP/s of forward and backward pass of a 3x3 convolution, in the faster of both memory layouts."""
    autocast = set_precision(precision)
    best = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, channels, 28, 28, device=device()).contiguous(memory_format=layout).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, device=device()).contiguous(memory_format=layout)
        weight.requires_grad_()

        def work(x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
            with autocast:
                y = torch.nn.functional.conv2d(x, weight, padding=1)
            torch.autograd.grad(y, (x, weight), torch.ones_like(y))

        seconds = statistics.median(seconds_per_call(work, 0.1) for _ in range(3))
        best = max(best, conv_flops(channels, backward=True, batch=batch) / seconds)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    versions = {"torch": torch.__version__, "CUDA": torch.version.cuda}
    for name in ("pytorch-lightning", "torchmetrics", "torchvision", "numpy", "triton", "jsonargparse", "wandb"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not there"
    found = machine()
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        found["gpu"] = torch.cuda.get_device_name()
        found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    result(**found)
    print(json.dumps(versions))
    result(**versions)
    for precision in PRECISIONS:
        speed = conv_speed(precision, 32, 8 if small else 500)
        result(convolution="3x3, 32 to 32, forward and backward", precision=precision, tflops=speed / 1e12)


if __name__ == "__main__":
    main()
