"""What ``torch.compile`` of more than the decoder brings on this machine: times of the phases' passes.

    python benchmarks/compiling.py configs/digits_clustering.yaml --side 8 --batch 32

Each pass goes forward and back, without an optimizer. The variants take turns and the median counts: take ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from gpu_steps import configured_model
from timing import seconds_of_each

VARIANTS = {"none": (), "decoder": ("decoder",), "all three": ("encoder", "decoder", "discriminator")}


def passes(config: Path, side: int, batch: int, compiled: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """The passes of a step by name, of a model with some of its networks compiled."""
    torch.manual_seed(0)
    model = configured_model(config, side).train()
    for name in compiled:
        getattr(model, name).compile()
    x = torch.rand(batch, 1, side, side).round()
    code = torch.rand(batch, model.prior.code_dim)

    def step() -> None:
        z = model.posterior(model.encoder(x))
        (-model.likelihood.log_prob(model.decoder(x, z), x).mean()).backward()
        F.softplus(model.discriminator(model.posterior(model.encoder(x)).detach())).mean().backward()
        F.softplus(-model.discriminator(model.posterior(model.encoder(x)))).mean().backward()

    return {
        "three phases": step,
        "encoder": lambda: model.posterior(model.encoder(x)).square().sum().backward(),
        "discriminator": lambda: model.discriminator(code).mean().backward(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--side", type=int, default=28, help="of the images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="of each pass (default: %(default)s)")
    o = parser.parse_args()
    variants = [passes(o.config, o.side, o.batch, compiled) for compiled in VARIANTS.values()]
    print("| pass | " + " | ".join(f"compiled: {name}" for name in VARIANTS) + " |\n" + "|---" * 4 + "|")
    for name in variants[0]:
        medians = [statistics.median(t) for t in seconds_of_each([v[name] for v in variants], o.repeats, warmups=2)]
        print(
            f"| {name} | {1000 * medians[0]:.1f} ms | "
            + " | ".join(f"{m / medians[0]:.2f}" for m in medians[1:])
            + " |"
        )


if __name__ == "__main__":
    main()
