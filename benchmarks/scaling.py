"""Images per second on many GPUs by arithmetic: what a step computes, and what its processes send each other.

    python benchmarks/scaling.py --step_ms 5 --batch 100

An all-reduce of ``b`` bytes takes the shorter time of a ring, ``2 (N - 1) (latency + b / N / bandwidth)``, and a tree,
``2 log2(N) (latency + b / bandwidth)``. Nothing of it is hidden behind the step's own work, so the real curve should
lie a little above. Links within a machine of 8 and between machines differ. The defaults are those of
``configs/mnist_clustering.yaml``: DDP with unused parameters sends all gradients in each of three phases, and the 5
layers with batch statistics send a sum each way in each pass, one way in that of the discriminator.
"""

from __future__ import annotations

import argparse
import math


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
    parser.add_argument("--gradients", type=int, nargs="*", default=[3_464_000] * 3, help="bytes of each phase")
    parser.add_argument("--statistics", type=int, default=25, help="sums of batch statistics in a step, 2 kB each")
    parser.add_argument("--within", type=float, nargs=2, default=(5e-6, 300e9), help="latency in s, bytes per s")
    parser.add_argument("--between", type=float, nargs=2, default=(15e-6, 25e9), help="the same between machines")
    o = parser.parse_args()
    step = o.step_ms / 1000
    print("| GPUs | images/s | share of N times one |\n|---|---|---|")
    for processes in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        latency, bandwidth = o.within if processes <= 8 else o.between
        sizes = [*o.gradients, *[2000] * o.statistics]
        seconds = step + sum(all_reduce_seconds(processes, size, latency, bandwidth) for size in sizes)
        print(f"| {processes} | {processes * o.batch / seconds:.0f} | {step / seconds:.2f} |")


if __name__ == "__main__":
    main()
