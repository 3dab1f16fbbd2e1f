"""Images per second on many GPUs by arithmetic: what a step computes, and what its processes send each other.

    python benchmarks/scaling.py --step_ms 5 --batch 100

An all-reduce of ``b`` bytes takes the shorter time of a ring, ``2 (N - 1) (latency + b / N / bandwidth)``, and a tree,
``2 log2(N) (latency + b / bandwidth)``. Nothing of it is hidden behind the step's own work, so the real curve should
lie a little above. Links within a machine of 8 and between machines differ.

Messages are counted from the model of ``benchmarks/step.yaml``: one for the gradients of each phase, of what
it moves, and one for each layer with batch statistics on each way of a pass; the discriminator's has no way back.
"""

from __future__ import annotations

import argparse
import math

import yaml
from gpu_steps import CONFIG, configured_model

from pixelgan_lightning.numerics.normalization import BatchNorm

FLOAT = 4
"""Bytes of a number."""


def messages() -> tuple[list[int], list[int]]:
    """Bytes of each message of a step: of gradients and of batch statistics."""
    model = configured_model()
    layers = [layer for part in (model.encoder, model.posterior) for layer in part.modules()]
    sums = [FLOAT * (2 * len(layer.running_mean) + 1) for layer in layers if isinstance(layer, BatchNorm)]
    gradients, statistics = [], []
    for name in yaml.safe_load(CONFIG.read_text())["model"]["phases"]:
        moves = model.phases[name].moves
        moved = [p for part in moves for p in getattr(model, part).parameters()]
        gradients.append(FLOAT * sum(p.numel() for p in moved))
        statistics += sums * (2 if "encoder" in moves else 1)
    return gradients, statistics


def all_reduce_seconds(processes: int, size: float, latency: float, bandwidth: float) -> float:
    """Time of an all-reduce.

    Args:
        processes: N.
        size: bytes.
        latency: seconds of a message.
        bandwidth: bytes per second of a link.
    """
    ring = 2 * (processes - 1) * (latency + size / processes / bandwidth)
    tree = 2 * math.ceil(math.log2(processes)) * (latency + size / bandwidth)
    return min(ring, tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step_ms", type=float, required=True, help="measured on one GPU (make gpu)")
    parser.add_argument("--batch", type=int, required=True, help="images of a process in a step")
    parser.add_argument("--within", type=float, nargs=2, default=(5e-6, 300e9), help="latency in s, bytes per s")
    parser.add_argument("--between", type=float, nargs=2, default=(15e-6, 25e9), help="the same between machines")
    o = parser.parse_args()
    step = o.step_ms / 1000
    gradients, statistics = messages()
    megabytes = ", ".join(f"{size / 1e6:.2f}" for size in gradients)
    print(
        f"gradients: {megabytes} MB; batch statistics: {len(statistics)} sums, {sum(statistics) / 1e3:.1f} kB in all\n"
    )
    print("| GPUs | images/s | of N times one | ms for gradients | ms for statistics |\n|---|---|---|---|---|")
    for processes in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        latency, bandwidth = o.within if processes <= 8 else o.between
        of_gradients, of_statistics = (
            sum(all_reduce_seconds(processes, size, latency, bandwidth) for size in sizes)
            for sizes in (gradients, statistics)
        )
        seconds = step + of_gradients + of_statistics
        print(
            f"| {processes} | {processes * o.batch / seconds:.0f} | {step / seconds:.2f} "
            f"| {1000 * of_gradients:.2f} | {1000 * of_statistics:.2f} |"
        )


if __name__ == "__main__":
    main()
