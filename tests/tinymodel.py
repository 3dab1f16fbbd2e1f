"""A tiny model for 8x8 digits and its checkpoint, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.likelihoods import CategoricalLevels
from pixelgan_lightning.priors import Categorical, Prior


def tiny_model(prior: Prior | None = None, seed: int = 0, **arguments: Any) -> PixelGAN:
    """Random weights, large enough that codes and images matter; running statistics are not those of a new model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PixelGAN(
            (1, 8, 8),
            10,
            prior=prior or Categorical(10),
            encoder=ConvEncoder(channels=[4], num_features=8),
            discriminator=MLPDiscriminator(widths=[4]),
            **{
                "decoder": GatedPixelCNN(channels=4, layers=1, first_kernel=3),
                "likelihood": CategoricalLevels(levels=17),
                **arguments,
            },
        )
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand(tensor.shape))
    return model.eval()


def write_checkpoint(model: PixelGAN, path: Path) -> Path:
    """What Lightning would write, as far as loading a model goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": "2.6.4",
    }
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return path
