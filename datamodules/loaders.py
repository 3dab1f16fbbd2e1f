"""Loaders over images held in memory: that of the GPU, where there is one.

They are plain iterables and not ``torch.utils.data.DataLoader``: a batch is one indexing operation, so worker processes
rarely save what they cost, and every order is a function of a key, so that a run can be continued in the middle of an
epoch and N processes see the same global batches as one. Batches are gathered, scaled, changed and drawn where the
images lie: on a GPU nothing is copied to it, and nothing waits for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.datamodules.pixels import nearest_level, to_unit_interval
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.random import Key, RowDraws, permutation

Batch = dict[str, Any]


@lru_cache(maxsize=4)  # the epoch's order and the two cycles of labelled images that a batch may touch
def _permutation(size: int, device: torch.device, *key: Key) -> Tensor:
    return permutation(size, *key, device=device)


def place(images: Tensor, device: torch.device) -> Tensor:
    """``images`` on a CUDA ``device`` if they take at most half of what is free there; otherwise where they are.

    Elsewhere than on CUDA, images stay where they are too.
    """
    if device.type != "cuda" or 2 * images.nbytes > torch.cuda.mem_get_info(device)[0]:
        return images
    return images.to(device)


class TrainLoader:
    """Training batches: ``{"unlabelled": {"image", "index"}, "labelled": {"image", "label", "index"}}``.

    ``image`` is float32 ``[B, C, H, W]`` in [0, 1], ``index`` int64 ``[B]`` (row in ``images``), ``label`` int64
    ``[B']``; ``"labelled"`` is there only where ``labelled`` is given, and so is ``batch["unlabelled"]["neighbour"]``,
    an image like ``image``, where ``neighbours`` is given.

    Unlabelled images come in a permutation keyed by (seed, epoch): each image at most once per epoch, and an incomplete
    last batch is dropped. Labelled images come as a stream of permutations keyed by (seed, cycle), which runs on across
    epochs: step ``i`` of epoch ``e`` takes global batch ``e * len(self) + i`` of it. Both are cut into global batches,
    of which process ``rank`` takes rows ``rank * batch_size`` to ``(rank + 1) * batch_size``.

    Like a ``DistributedSampler`` the loader has to be told the epoch through :meth:`set_epoch`; Lightning does so
    through :attr:`sampler`.

    Args:
        images: ``[N, C, H, W]`` uint8, values in ``0..levels-1``. Batches are made on their device.
        unlabelled: int64 ``[M]``, the rows of ``images`` to train on.
        batch_size: unlabelled images per process and step.
        levels: number of levels of ``images``.
        augmentation: random changes of the images, before they are rounded to their levels and drawn, keyed by
            (seed, epoch, step) for the global batch; None for the images as they are.
        dynamic: draw every pixel anew at every visit, Bernoulli with the grey value as probability, keyed by
            (seed, epoch, step) for the global batch. Otherwise images are ``level / (levels - 1)``.
        labels: int64 ``[N]``; needed with ``labelled``.
        labelled: int64 ``[M']``, the rows of ``images`` that may be used with their label.
        labelled_batch_size: labelled images per process and step.
        neighbours: int64 ``[M, k]``, places in ``unlabelled`` of the images that look most like each; one of the k is
            drawn at every visit, keyed by (seed, epoch, step) for the global batch.
        seed: key of the orders and of the binarisation.
        shuffle: with False every epoch repeats the same batches: the rows in the given order, with epoch 0's
            binarisation.
        rank: index of this process.
        world_size: number of processes.
        current_epoch: where to look up the epoch that :meth:`set_epoch` announces, instead of believing its argument.
        num_workers: processes that prepare batches ahead, the same ones as without them; for images on the CPU.

    Raises:
        ConfigurationError: a global batch asks for more images than there are.
    """

    def __init__(
        self,
        images: Tensor,
        unlabelled: Tensor,
        batch_size: int,
        *,
        levels: int,
        augmentation: Augmentation | None = None,
        dynamic: bool = False,
        labels: Tensor | None = None,
        labelled: Tensor | None = None,
        labelled_batch_size: int = 100,
        neighbours: Tensor | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        current_epoch: Callable[[], int] | None = None,
        num_workers: int = 0,
    ) -> None:
        _check_global_batch("batch_size", batch_size, world_size, len(unlabelled), "images to train on")
        if labelled is not None:
            _check_global_batch(
                "labelled_batch_size", labelled_batch_size, world_size, len(labelled), "labelled images"
            )
        self.images, self.levels, self.dynamic = images, levels, dynamic
        self.labels, self.labelled, self.neighbours = (
            None if rows is None else rows.to(images.device) for rows in (labels, labelled, neighbours)
        )
        self.augmentation = None if augmentation is None else augmentation.to(images.device)
        self.unlabelled, self.batch_size = unlabelled.to(images.device), batch_size
        self.labelled_batch_size = labelled_batch_size
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self.current_epoch, self.num_workers = current_epoch, num_workers
        self.epoch = 0
        self.position = 0  # batches of this epoch handed out
        self._start = 0  # where the next iteration begins: not 0 only after load_state_dict

    @property
    def sampler(self) -> TrainLoader | SequentialSampler:
        """Where Lightning announces the epoch and, for ``overfit_batches``, looks whether rows are shuffled."""
        return self if self.shuffle else _FileOrder(self)

    def set_epoch(self, epoch: int) -> None:
        """Announce the epoch (counted from 0). A new epoch starts at its first batch; the current one is continued."""
        if self.current_epoch is not None:
            epoch = self.current_epoch()
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out; the same on every process."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration continue behind the batches that ``state_dict`` counts."""
        self.epoch = state_dict["epoch"]
        self.position = self._start = state_dict["position"]

    def __len__(self) -> int:
        """Steps per epoch, also where an iteration continues in the middle of one."""
        return len(self.unlabelled) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        # As a generator this runs at the first next(), and Lightning announces the epoch after iter() but before that.
        self.position, self._start = self._start, 0
        steps = range(self.position, len(self))
        for batch in self._prepared(steps) if self.num_workers else map(self._batch, steps):
            self.position += 1  # counts what was handed out, not what was prepared
            yield batch

    def _prepared(self, steps: range) -> Iterator[Batch]:
        # With a generator of its own, so that the global stream is left alone.
        options: dict[str, Any] = {"num_workers": self.num_workers, "generator": torch.Generator()}
        return iter(DataLoader(_Steps(self), batch_size=None, sampler=steps, **options))

    def _batch(self, step: int) -> Batch:
        epoch = self.epoch if self.shuffle else 0
        draws = RowDraws(self.seed, epoch, step, rank=self.rank, world_size=self.world_size, device=self.images.device)
        rows = self._share(self._order(len(self.unlabelled), "unlabelled", epoch), step, self.batch_size)
        index = self.unlabelled[rows]
        batch: Batch = {"unlabelled": {"image": self._image(index, draws, "unlabelled"), "index": index}}
        if self.neighbours is not None:
            candidates = self.neighbours[rows]
            choice = (draws.uniform("choice of the neighbour", *candidates.shape[:1]) * candidates.shape[1]).long()
            like = self.unlabelled[candidates.gather(1, choice[:, None]).squeeze(1)]
            batch["unlabelled"]["neighbour"] = self._image(like, draws, "neighbour")
        if self.labelled is not None and self.labels is not None:
            size = len(self.labelled)
            begin = (epoch * len(self) + step) * self.labelled_batch_size * self.world_size
            cycle, offset = divmod(begin, size)
            # A global batch is no longer than a cycle: it touches this cycle and perhaps the next.
            stream = torch.cat([self._order(size, "order of labelled images", cycle + i) for i in range(2)])[offset:]
            index = self.labelled[self._share(stream, 0, self.labelled_batch_size)]
            image = self._image(index, draws, "labelled")
            batch["labelled"] = {"image": image, "label": self.labels[index], "index": index}
        return batch

    def _order(self, size: int, *key: Key) -> Tensor:
        device = self.images.device
        return _permutation(size, device, self.seed, *key) if self.shuffle else torch.arange(size, device=device)

    def _share(self, order: Tensor, step: int, rows: int) -> Tensor:
        begin = (step * self.world_size + self.rank) * rows
        return order[begin : begin + rows]

    def _image(self, index: Tensor, draws: RowDraws, stream: str) -> Tensor:
        image = to_unit_interval(self.images[index], self.levels)
        if self.augmentation is not None:
            numbers = draws.uniform(f"augmentation, {stream}", len(image), self.augmentation.num_draws)
            with torch.no_grad():
                image = nearest_level(self.augmentation(image, numbers), self.levels)
        if self.dynamic:
            image = (draws.uniform(f"binarisation, {stream}", *image.shape) < image).float()
        return image


class _Steps(Dataset[Batch]):
    """The batches of an epoch by step, for worker processes: they need nothing of the trainer."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = copy.copy(loader)
        self.loader.current_epoch = None

    def __getitem__(self, step: int) -> Batch:
        return self.loader._batch(step)


class _FileOrder(SequentialSampler):
    """Shows Lightning that a loader does not shuffle, and passes the epoch on to it."""

    def __init__(self, loader: TrainLoader) -> None:
        super().__init__(range(len(loader)))
        self.set_epoch = loader.set_epoch


def _check_global_batch(name: str, batch_size: int, world_size: int, available: int, what: str) -> None:
    if batch_size * world_size > available:
        raise ConfigurationError(
            f"{name}={batch_size} on {world_size} process(es) takes {batch_size * world_size} images per step, but "
            f"there are only {available} {what}: this would give zero steps; allowed are at most "
            f"{available // world_size}"
        )


class EvalLoader:
    """Batches ``{"image", "label", "index"}`` of given rows in their order, each row on exactly one process.

    Nothing is padded or repeated: process ``rank`` takes ``indices[rank::world_size]``, and its last batch may be
    smaller, so processes may differ by one batch.

    Args:
        images: ``[N, C, H, W]`` uint8, values in ``0..levels-1``. Batches are made on their device.
        labels: int64 ``[N]``.
        indices: int64 ``[M]``, the rows to hand out.
        batch_size: images per process and batch.
        levels: number of levels of ``images``; handed out as float32 ``level / (levels - 1)``.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ConfigurationError: fewer rows than processes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        *,
        levels: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if 0 < len(indices) < world_size:
            raise ConfigurationError(
                f"devices={world_size} is not usable with {len(indices)} images to evaluate on: each process needs "
                f"one; allowed are at most {len(indices)}"
            )
        self.images, self.labels, self.levels = images, labels.to(images.device), levels
        self.indices, self.batch_size = indices[rank::world_size].to(images.device), batch_size

    def __len__(self) -> int:
        return ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.indices.split(self.batch_size):
            image = to_unit_interval(self.images[index], self.levels)
            yield {"image": image, "label": self.labels[index], "index": index}
