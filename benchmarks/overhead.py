"""What a training step takes beside its mathematics: a tiny model trained by Lightning, and by a bare loop.

    python benchmarks/overhead.py

One thread; the two take turns and medians count. The model is so small that nearly all of its mathematics is the
host's time for each operation.
"""

from __future__ import annotations

import logging
import statistics
import warnings

import pytorch_lightning as pl
import torch
from gpu_steps import BareLoop, Clock
from gpu_timing import seconds_per_call

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.datamodules import DigitsDataModule
from pixelgan_lightning.decoders import GatedPixelCNN
from pixelgan_lightning.discriminators import MLPDiscriminator
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.numerics.precision import fast_training
from pixelgan_lightning.phases import DiscriminatorPhase, GeneratorPhase, ReconstructionPhase

BATCH = 8


def tiny_model() -> PixelGAN:
    """The paper's three phases on 8x8 images."""
    return PixelGAN(
        (1, 8, 8),
        10,
        encoder=ConvEncoder([4], num_features=8),
        decoder=GatedPixelCNN(4, layers=1),
        discriminator=MLPDiscriminator([4], code_noise=0.2),
        phases={
            "reconstruction": ReconstructionPhase(),
            "discriminator": DiscriminatorPhase(),
            "generator": GeneratorPhase(),
        },
    )


def trained_ms(seconds: float) -> float:
    """Milliseconds of a step in ``Trainer.fit``, with logs every 50 steps."""
    clock = Clock(30, seconds, "fp32")
    trainer = pl.Trainer(
        max_epochs=1000, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(tiny_model(), DigitsDataModule(batch_size=BATCH, binarization="dynamic"))
    return Clock.last["ms"]


def measured(turns: int = 5, seconds: float = 3) -> dict[str, float]:
    """Milliseconds of a step: in ``Trainer.fit``, in a bare loop, and their difference; medians of ``turns``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop = BareLoop(BATCH, "fp32", tiny_model())
    times = [(trained_ms(seconds), 1000 * seconds_per_call(loop.step, seconds)) for _ in range(turns)]
    torch.set_num_threads(threads)
    fit, bare = (statistics.median(column) for column in zip(*times, strict=True))
    return {"fit_ms": fit, "bare_ms": bare, "plain_ms": fit - bare}


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    fast_training()
    ms = measured()
    print(
        f"Trainer.fit {ms['fit_ms']:.2f} ms, bare loop {ms['bare_ms']:.2f} ms, beside its mathematics "
        f"{ms['plain_ms']:.2f} ms"
    )


if __name__ == "__main__":
    main()
