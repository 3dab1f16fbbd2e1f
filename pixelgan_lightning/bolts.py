"""A bridge to lightning-bolts 0.7.0, the last release, which was made for pytorch-lightning before 2.0.

It demands that version, so it has to be installed without its dependencies, which are here already::

    pip install --no-deps lightning-bolts==0.7.0

and fails on a single module that has moved since. Importing this file, before ``pl_bolts``, puts it back::

    from pixelgan_lightning.bolts import pl_bolts

``docs/bolts.md`` says what works and which parts of ``pl_bolts`` do not.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from pixelgan_lightning.datamodules import ImageDataModule
from pixelgan_lightning.datamodules.base import Source, Split
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.phases.optimization import PhaseOptimizer

MOVED = {"pytorch_lightning.utilities.apply_func": "lightning_utilities.core.apply_func"}
"""By the name that ``pl_bolts`` imports, the module that holds its content today."""


def import_bolts() -> ModuleType:
    """``pl_bolts``, after what has moved since it was written was put back.

    Raises:
        ModuleNotFoundError: lightning-bolts is not installed.
    """
    if importlib.util.find_spec("pl_bolts") is None:
        raise ModuleNotFoundError(
            "lightning-bolts is not installed: pip install --no-deps lightning-bolts==0.7.0 (its own demand for "
            "pytorch-lightning < 2.0 cannot be met)",
            name="pl_bolts",
        )
    for former, today in MOVED.items():
        sys.modules.setdefault(former, importlib.import_module(today))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "under review", and deprecations it causes itself
        return importlib.import_module("pl_bolts")


pl_bolts: Any = import_bolts()


@dataclass
class LinearWarmupCosine(PhaseOptimizer):
    """Learning rates by ``pl_bolts.optimizers.LinearWarmupCosineAnnealingLR``, a step being a batch.

    Linear from 0 in ``warmup_steps`` batches, then a cosine down to ``final_lr_factor * lr`` at the last batch of the
    training. A function of the step, so a continued run goes on where it was. A model that is rebuilt from a
    checkpoint has a plain :class:`PhaseOptimizer` with ``schedule="cosine"``, whose rates differ in the warm-up.

    Raises:
        ConfigurationError: a value out of range; ``warmup_steps=1``, by which ``pl_bolts`` would divide by zero; in
            training: a trainer without ``max_epochs`` and ``max_steps``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule = "cosine"
        if self.warmup_steps == 1:
            raise ConfigurationError("warmup_steps=1 is not usable with pl_bolts: allowed are 0, 2, 3, ...")

    def factor(self, step: int, total_steps: float) -> float:
        if not self.warmup_steps < total_steps < math.inf:
            raise ConfigurationError(
                f"warmup_steps={self.warmup_steps} with {total_steps} batches of training is not usable: allowed is a "
                "limited number of batches, more than the warm-up has"
            )
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = pl_bolts.optimizers.LinearWarmupCosineAnnealingLR(
                optimizer, self.warmup_steps, int(total_steps), eta_min=self.final_lr_factor
            )
        scheduler.last_epoch = min(step, int(total_steps))
        return float(scheduler._get_closed_form_lr()[0])


class BoltsDataModule(ImageDataModule):
    """The images of a vision data module of ``pl_bolts``, for example its ``MNISTDataModule``, in our batches.

    The split into training and validation images is that module's. Its transforms are applied once, and have to give
    grey levels: ``ToTensor``, what it does by default. Its loaders and batch sizes are not used.

    Args:
        module: the data module, with ``dims`` and ``num_classes``.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`.

    Raises:
        ConfigurationError: ``module`` is no vision data module, or on use: its transforms do not give grey levels.
    """

    native_levels = 256

    def __init__(self, module: Any, **kwargs: Any) -> None:
        if not isinstance(module, pl_bolts.datamodules.vision_datamodule.VisionDataModule):
            raise ConfigurationError(
                f"module={type(module).__name__} is not usable: allowed are vision data modules of pl_bolts"
            )
        self.module = module
        self.image_shape, self.num_classes = tuple(module.dims), module.num_classes
        super().__init__(**kwargs)

    def prepare_data(self) -> None:
        """Let the module fetch its files."""
        self.module.prepare_data()

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """All images of a file, those for validation too, and their labels."""
        dataset: Any = self._part("train").dataset if source == "train" else self._dataset("test")
        # Item by item: data sets may do more in __getitem__ than their transforms say, BinaryMNIST does.
        items = [dataset[i] for i in range(len(dataset))]
        images = torch.stack([image for image, _ in items]) * 255
        levels = images.round().clamp(0, 255)
        if (levels - images).abs().max() > 1e-3:
            raise ConfigurationError(
                f"transforms of {type(self.module).__name__} are not usable: allowed is what gives grey levels in "
                "[0, 1], normalize=False"
            )
        return levels.to(torch.uint8), torch.tensor([int(label) for _, label in items])

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """The module's own split."""
        return (
            torch.arange(len(labels)) if split == "test" else torch.as_tensor(self._part(split).indices).sort().values
        )

    def _part(self, split: Split) -> Subset:
        return self._dataset(split)

    def _dataset(self, split: Split) -> Any:
        if not hasattr(self.module, f"dataset_{split}"):
            self.module.setup("test" if split == "test" else "fit")
        return getattr(self.module, f"dataset_{split}")
