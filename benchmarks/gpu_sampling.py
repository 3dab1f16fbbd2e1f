"""A section of ``make gpu``: time of sampling, by CUDA graphs and without, and of a full pass for every pixel."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from gpu_steps import guarded
from gpu_timing import device, seconds_per_call, set_precision

from pixelgan_lightning.decoders import GatedPixelCNN, draw_uniforms
from pixelgan_lightning.decoders.incremental import sample_incrementally
from pixelgan_lightning.likelihoods import Bernoulli, DiscretizedLogisticMixture


def networks() -> dict[str, GatedPixelCNN]:
    """The decoders of ``configs/mnist_clustering.yaml`` and ``configs/svhn_clustering.yaml``."""
    dilations = [1, 2, 4, 1, 2, 4, 2]
    digits = GatedPixelCNN(channels=32, layers=7, first_kernel=7, dilations=dilations)
    numbers = GatedPixelCNN(channels=64, layers=7, first_kernel=7, dilations=dilations)
    mixture = DiscretizedLogisticMixture(num_mixtures=10, levels=256)
    return {
        "28x28x1": digits.build((1, 28, 28), 30, Bernoulli()).to(device()),
        "32x32x3": numbers.build((3, 32, 32), 30, mixture).to(device()),
    }


@torch.no_grad()
def sampling(decoder: GatedPixelCNN, batch: int) -> dict[str, float]:
    """Milliseconds per image: by graphs, by single operations, and as full passes for every pixel would take."""
    z = torch.eye(30, device=device())[torch.arange(batch, device=device()) % 30]
    uniforms = draw_uniforms(decoder, batch, torch.Generator().manual_seed(0), z)
    seconds, single = (
        seconds_per_call(lambda g=graph: sample_incrementally(decoder, z, uniforms, graph=g), 1, warmups=1)
        for graph in (True, False)
    )
    x = torch.rand(batch, *decoder.image_shape, device=device()).round()
    _, height, width = decoder.image_shape
    full = height * width * seconds_per_call(lambda: decoder(x, z), 0.3, warmups=1)
    return {
        "seconds": seconds,
        "ms_per_image": 1000 * seconds / batch,
        "without_graphs_ms_per_image": 1000 * single / batch,
        "full_passes_ms_per_image": 1000 * full / batch,
        "times_full_passes": full / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    set_precision("tf32")
    for batch in (4,) if small else (1024, 64, 4096):
        for name, decoder in networks().items():
            what: dict[str, Any] = {"image": name, "batch": batch}
            guarded(what, lambda d=decoder, b=batch: sampling(d, b))


if __name__ == "__main__":
    main()
