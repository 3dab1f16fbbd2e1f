"""What all data modules of images share: splits, the draw of the labelled images, binarisation, loaders."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from pixelgan_lightning.augmentations import Augmentation
from pixelgan_lightning.datamodules.loaders import EvalLoader, TrainLoader, place
from pixelgan_lightning.datamodules.neighbours import nearest_neighbours
from pixelgan_lightning.datamodules.pixels import binarise, quantise
from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.random import keyed_generator

Source = Literal["train", "test"]
"""The two files (or sets of files) that a data set comes as."""

Split = Literal["train", "val", "test"]

Binarization = Literal["none", "dynamic", "fixed", "threshold"]

_SOURCE: dict[Split, Source] = {"train": "train", "val": "train", "test": "test"}


class ImageDataModule(LightningDataModule):
    """Images in memory with a semi-supervised training split.

    The unlabelled set is the whole training split: the labelled images stay in it, without their labels. For batches
    see :class:`~pixelgan_lightning.datamodules.loaders.TrainLoader` and ``EvalLoader``; their ``index`` counts rows of
    the file that the split comes from (training and validation images: the training file).

    A subclass sets :attr:`image_shape`, :attr:`num_classes` and :attr:`native_levels`, and implements
    :meth:`load_split`, :meth:`split_rule` and, where something has to be fetched, ``prepare_data``.

    ``setup`` and the loaders read files when they are first needed. Without a trainer the module works as on a single
    process.

    Args:
        batch_size: unlabelled training images per process and step.
        eval_batch_size: images per process and step of validation, test and prediction.
        num_labelled: number of training images whose labels are used, a multiple of the number of classes (the same
            number is drawn from every class); None for unsupervised training.
        labelled_batch_size: labelled images per process and step; not used without ``num_labelled``.
        label_seed: key of the draw of the labelled images, separate from the seed of training.
        neighbours: give each unlabelled training image one of this many that look most like it
            (:func:`~pixelgan_lightning.datamodules.neighbours.nearest_neighbours`), drawn anew at every visit; 0 for
            none. ``neighbour_steps`` of the agreement phase says how long it makes use of it.
        seed: key of the order of the batches and of dynamic binarisation.
        levels: number of grey levels, ``2..native_levels`` (``floor(v * levels / native_levels)``: bins of equal
            width); None for all native levels, or for 2 where images are binarised.
        binarization: one of

            - ``"none"``: no binarisation, grey images with ``levels`` levels;
            - ``"threshold"``: 1 where the grey value is above 0.5;
            - ``"dynamic"``: Bernoulli draws with the grey value as probability, anew at every visit in training; for
              evaluation one draw keyed by ``seed``, the same at every epoch;
            - ``"fixed"``: one such draw per image, keyed by ``binarization_seed``, the same at every visit. This is
              *not* the file of binarised MNIST by Larochelle and Murray (2011): likelihoods on the two are not
              comparable, as they are not between the modes.
        binarization_seed: key of ``"fixed"``.
        augmentation: random changes of every training image, anew at every visit, which encoder and decoder both see
            (``model.augmentation`` changes what the encoder sees and leaves the decoder's target alone). None, the
            default: the images as they are.
        num_workers: processes that prepare training batches ahead, bit by bit the same. Images are in memory, on a GPU
            in that of the GPU where batches are then prepared, unless they take more than half of it: this pays only
            where preparing them on the CPU takes long beside a step.

    Raises:
        ConfigurationError: an argument is out of its range; on use of the data also: files that are missing or do not
            hold what they should, more labels than images, a global batch larger than its split.
    """

    image_shape: tuple[int, int, int]
    """(channels, height, width)."""
    num_classes: int | None
    """Labels are ``0..num_classes-1``, and -1 where the label of an image is unknown; None: no image has a label."""
    native_levels: int
    """Number of levels in the files, at most 256."""
    class_names: tuple[str, ...] | None = None
    """What the labels ``0..num_classes-1`` stand for, to be shown to people; None where nothing is known."""

    predict_split_names: tuple[Split, ...] = ("train", "val", "test")
    """The splits that :meth:`predict_dataloader` returns loaders for, in this order."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 250,
        num_labelled: int | None = None,
        labelled_batch_size: int = 100,
        label_seed: int = 0,
        neighbours: int = 0,
        seed: int = 0,
        levels: int | None = None,
        binarization: Binarization = "none",
        binarization_seed: int = 0,
        augmentation: Augmentation | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        sizes = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "labelled_batch_size": labelled_batch_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ConfigurationError(f"{name}={size} is not usable: allowed are 1, 2, 3, ...")
        for name, number in {"neighbours": neighbours, "num_workers": num_workers}.items():
            if number < 0:
                raise ConfigurationError(f"{name}={number} is not usable: allowed are 0, 1, 2, ...")
        if num_labelled is not None and self.num_classes is None:
            raise ConfigurationError(
                f"num_labelled={num_labelled} is not usable: allowed is null, as no image has a label"
            )
        if num_labelled is not None and (num_labelled <= 0 or num_labelled % (self.num_classes or 1)):
            raise ConfigurationError(
                f"num_labelled={num_labelled} is not usable: allowed are null (no labels) and positive multiples "
                f"of {self.num_classes}, the number of classes"
            )
        if binarization not in get_args(Binarization):
            raise ConfigurationError(
                f"binarization={binarization!r} is unknown: allowed are {', '.join(get_args(Binarization))}"
            )
        if binarization == "none":
            allowed = range(2, self.native_levels + 1)
        else:
            allowed = range(2, 3)
        if levels is not None and levels not in allowed:
            raise ConfigurationError(
                f"levels={levels} is not usable with binarization={binarization!r}: allowed are null and "
                + " to ".join(str(level) for level in sorted({allowed[0], allowed[-1]}))
            )
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_labelled, self.labelled_batch_size, self.label_seed = num_labelled, labelled_batch_size, label_seed
        self.neighbours = neighbours
        self.seed, self.binarization, self.binarization_seed = seed, binarization, binarization_seed
        self.augmentation = augmentation
        self.num_workers = num_workers
        self._levels = allowed[-1] if levels is None else levels
        self._sources: dict[Source, tuple[Tensor, Tensor]] = {}
        self._evaluation_images: dict[Source, Tensor] = {}
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}
        self._neighbours: Tensor | None = None

    @property
    def levels(self) -> int:
        """Number of levels of the images handed out: 2 where they are binarised."""
        return self._levels

    # --- what a subclass implements ---------------------------------------------------------------------------------

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """Images ``[N, C, H, W]`` uint8 in ``0..native_levels-1`` and labels int64 ``[N]`` (-1: unknown) of one file.

        Raises:
            ConfigurationError: the file is missing or damaged.
        """
        raise NotImplementedError

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows (int64) of a split within its file, which has ``labels`` ``[N]``; training and validation share a file.

        Raises:
            ConfigurationError: the file is too small for the split asked for.
        """
        raise NotImplementedError

    def image_name(self, source: Source, row: int) -> str | None:
        """What the image in ``row`` of a source is called, a file name as a rule; None where it has no name."""
        return None

    # --- splits -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read and check what ``stage`` ("fit", "validate", "test", "predict", None for all) needs."""
        sources: dict[str | None, tuple[Source, ...]] = {"fit": ("train",), "validate": ("train",), "test": ("test",)}
        predicted = tuple(dict.fromkeys(_SOURCE[split] for split in self.predict_split_names))
        for source in sources.get(stage, predicted):
            self._source(source)
        if stage in ("fit", None):
            loader = self.train_dataloader()
            labels = (
                f", {self.num_labelled} labelled images in batches of {self.labelled_batch_size} per process "
                f"({self.labelled_batch_size * loader.world_size} in all)"
                if self.num_labelled
                else ", no labels"
            )
            rank_zero_info(
                f"{type(self).__name__}: {len(loader.unlabelled)} training and {len(self.split_indices('val'))} "
                f"validation images; {len(loader)} steps per epoch, batches of {self.batch_size} per process "
                f"({self.batch_size * loader.world_size} in all){labels}"
            )

    def split_indices(self, split: Split) -> Tensor:
        """Rows of a split within its file, int64 ``[M]``."""
        return self.split_rule(split, self._source(_SOURCE[split])[1])

    @property
    def labelled_indices(self) -> Tensor | None:
        """Rows of the labelled images within the training file, int64 ``[num_labelled]``, ascending; None without.

        Raises:
            ConfigurationError: a class has fewer images in the training split than are to be drawn from it.
        """
        if self.num_labelled is None or self.num_classes is None:
            return None
        train = self.split_indices("train")
        if self.num_labelled > len(train):
            raise ConfigurationError(
                f"num_labelled={self.num_labelled} is more than the training split has images: allowed are at most "
                f"{len(train)}"
            )
        labels = self._source("train")[1][train]
        per_class = self.num_labelled // self.num_classes
        fewest, rarest = labels[labels >= 0].bincount(minlength=self.num_classes).min(dim=0)
        if fewest < per_class:
            raise ConfigurationError(
                f"num_labelled={self.num_labelled} asks for {per_class} images of every class, but the training split "
                f"has {fewest} of class {rarest}: allowed are at most {fewest * self.num_classes}"
            )
        drawn = []
        for label in range(self.num_classes):
            members = train[labels == label]
            order = torch.randperm(len(members), generator=keyed_generator(self.label_seed, "labelled", label))
            drawn.append(members[order[:per_class]])
        return torch.cat(drawn).sort().values

    @property
    def split_hash(self) -> str:
        """SHA-256 (hexadecimal) of the training, validation and labelled rows: equal only where these are equal."""
        digest = hashlib.sha256()
        for rows in (self.split_indices("train"), self.split_indices("val"), self.labelled_indices):
            digest.update(repr(None if rows is None else rows.tolist()).encode())
        return digest.hexdigest()

    # --- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> TrainLoader:
        """Training batches; with ``Trainer(overfit_batches=...)`` the same ones at every epoch."""
        images, labels = self._source("train")
        rank, world_size = self._process()
        dynamic = self.binarization == "dynamic"
        trainer = self.trainer
        return TrainLoader(
            images if self.num_workers else self._placed("train", images),  # other processes cannot use the GPU
            self.split_indices("train"),
            self.batch_size,
            levels=self.native_levels if dynamic else self.levels,
            augmentation=self.augmentation,
            dynamic=dynamic,
            labels=labels,
            labelled=self.labelled_indices,
            labelled_batch_size=self.labelled_batch_size,
            neighbours=self._nearest(images),
            seed=self.seed,
            shuffle=trainer is None or not trainer.overfit_batches,  # type: ignore[attr-defined]
            rank=rank,
            world_size=world_size,
            # Lightning announces one epoch too many after continuing, with max_steps, from the end of an epoch.
            current_epoch=None if trainer is None else lambda: trainer.current_epoch,
            num_workers=self.num_workers,
        )

    def _nearest(self, images: Tensor) -> Tensor | None:
        """Places in the training split of the neighbours of each of its images; found once."""
        if self.neighbours and self._neighbours is None:
            train = self.split_indices("train")
            if self.neighbours >= len(train):
                raise ConfigurationError(
                    f"neighbours={self.neighbours} is not usable with {len(train)} training images: allowed are at "
                    f"most {len(train) - 1}"
                )
            self._neighbours = nearest_neighbours(images[train], self.neighbours)
        return self._neighbours

    def val_dataloader(self) -> EvalLoader:
        """The validation split, each image once over all processes."""
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        """The test split, each image once over all processes."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> list[EvalLoader]:
        """One loader for each of :attr:`predict_split_names`."""
        return [self._eval_loader(split) for split in self.predict_split_names]

    def _eval_loader(self, split: Split) -> EvalLoader:
        source = _SOURCE[split]
        images, labels = self._source(source)
        if self.binarization == "dynamic":
            if source not in self._evaluation_images:
                key = (self.seed, "binarisation for evaluation", source)
                self._evaluation_images[source] = binarise(images, self.native_levels, *key)
            images = self._evaluation_images[source]
        rank, world_size = self._process()
        return EvalLoader(
            self._placed(f"{source}, evaluation" if self.binarization == "dynamic" else source, images),
            labels,
            self.split_indices(split),
            self.eval_batch_size,
            levels=self.levels,
            rank=rank,
            world_size=world_size,
        )

    def _placed(self, what: str, images: Tensor) -> Tensor:
        """``images`` on the trainer's device, if it is a GPU with room for them; kept there for other loaders."""
        if self.trainer is None:
            return images
        place_of = (what, self.trainer.strategy.root_device)
        if place_of not in self._on_device:
            self._on_device[place_of] = place(images, place_of[1])
        return self._on_device[place_of]

    def teardown(self, stage: str) -> None:
        """Leave the GPU's memory to others; the images stay in that of the CPU."""
        self._on_device.clear()

    def _process(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    # --- files ------------------------------------------------------------------------------------------------------

    def _source(self, source: Source) -> tuple[Tensor, Tensor]:
        """Images, as levels (native ones for dynamic binarisation, else those handed out), and labels of a file."""
        if source not in self._sources:
            images, labels = self.load_split(source)
            self._check(source, images, labels)
            if self.binarization == "fixed":
                images = binarise(images, self.native_levels, self.binarization_seed, "fixed binarisation", source)
            elif self.binarization != "dynamic":
                images = quantise(images, self.native_levels, self.levels)
            self._sources[source] = images, labels
        return self._sources[source]

    def _check(self, source: Source, images: Tensor, labels: Tensor) -> None:
        def require(good: bool, seen: str, allowed: str) -> None:
            if not good:
                raise ConfigurationError(f"{type(self).__name__}: the {source} file has {seen}: allowed are {allowed}")

        shape = tuple(images.shape[1:])
        require(images.dtype == torch.uint8, f"{images.dtype} images", "unsigned 8-bit integers")
        require(labels.dtype == torch.int64, f"{labels.dtype} labels", "64-bit integers")
        require(shape == self.image_shape, f"images of shape {shape}", f"images of shape {self.image_shape}")
        require(len(images) > 0, "no images", "one or more")
        require(labels.shape == (len(images),), f"{len(images)} images and {len(labels)} labels", "equal numbers")
        low, high = int(labels.min()), int(labels.max())
        classes = self.num_classes or 0
        known = f"0 to {classes - 1}, and " if classes else ""
        require(low >= -1 and high < classes, f"labels from {low} to {high}", f"{known}-1 for images without label")
        top = int(images.max())
        require(top < self.native_levels, f"grey levels up to {top}", f"0 to {self.native_levels - 1}")
