"""A user's own images: from an ``.npz`` or ``.pt`` file or a folder of pictures, with or without labels."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pixelgan_lightning.datamodules.base import ImageDataModule, Source, Split
from pixelgan_lightning.datamodules.expansion import require_sane_expansion
from pixelgan_lightning.datamodules.splits import stratified_order
from pixelgan_lightning.errors import ConfigurationError

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB"}  # of Pillow, by number of channels


class _Contents(NamedTuple):
    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64, -1: unknown


class ImageTensorDataModule(ImageDataModule):
    """Images of one's own, all of one size, with labels for all, some or none of them.

    Three forms are read:

    - ``NAME.npz``: array ``images``, ``[N, H, W]`` or ``[N, C, H, W]``, and array ``labels``, integers ``[N]``, -1 for
      an image without label; without ``labels`` no image has one;
    - ``NAME.pt``: a dictionary with tensors of these names, as ``torch.save`` writes it (nothing but tensors is read);
    - a folder: ``CLASS/name.png`` (or another common picture format) for images with label, classes numbered in
      alphabetical order, and ``name.png`` beside the class folders for images without. Other files are refused;
      names that begin with a dot are left out.

    Images are unsigned 8-bit integers below ``native_levels``, or floating-point numbers in [0, 1], which are rounded
    to ``native_levels`` levels. Labels are ``0..C-1``, and every class has an image for training.

    Unlabelled images are trained on, never drawn as labelled ones, and left out where labels are counted.
    :attr:`image_shape` and :attr:`num_classes` follow from the training data, which is therefore read when the data
    module is made.

    Args:
        train_path: the images for training and validation.
        test_path: the images for testing, of the same size; a folder must have no classes but those of ``train_path``.
            None: there are no test images, and a test is refused.
        val_fraction: share of the images of ``train_path`` that are validation images, drawn with the classes (and the
            images without label) in their proportions.
        split_seed: key of that draw.
        native_levels: number of levels of the images as they are stored, at most 256.
        channels: 1 (grey) or 3 (colours) to convert the pictures of a folder, None to take grey and RGB as they are.
        kwargs: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`; ``levels`` is the number of levels
            that the model sees.

    Raises:
        ConfigurationError: see :class:`~pixelgan_lightning.datamodules.base.ImageDataModule`; also for data that cannot
            be read or is not as described here.
    """

    def __init__(
        self,
        train_path: str,
        *,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        native_levels: int = 256,
        channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not 2 <= native_levels <= 256:
            raise ConfigurationError(f"native_levels={native_levels} is not usable: allowed are 2 to 256")
        if not 0 < val_fraction < 1:
            raise ConfigurationError(f"val_fraction={val_fraction} is not usable: allowed are numbers between 0 and 1")
        if channels is not None and channels not in _MODES:
            raise ConfigurationError(f"channels={channels} is not usable: allowed are null, 1 and 3")
        self.train_path, self.test_path = train_path, test_path
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.native_levels, self.channels = native_levels, channels
        self._classes = _class_folders(Path(train_path)) if Path(train_path).is_dir() else []
        self._training = self._read("train_path", train_path)
        self.image_shape = tuple(self._training.images.shape[1:])  # type: ignore[assignment]
        self.num_classes = _number_of_classes("train_path", train_path, self._training.labels)
        if self.num_classes is not None:
            numbers = map(str, range(self.num_classes))
            self.class_names = tuple(self._classes) or tuple(numbers)
        if test_path is None:
            self.predict_split_names = ("train", "val")
        elif not Path(test_path).exists():  # it is read only when needed; this much is said before training
            raise ConfigurationError(f"test_path={test_path!r} does not exist: allowed are null, .npz, .pt and folders")
        super().__init__(**kwargs)

    def load_split(self, source: Source) -> tuple[Tensor, Tensor]:
        """The images and labels of ``train_path`` or ``test_path``.

        Raises:
            ConfigurationError: there are no test images, or they cannot be read.
        """
        if source == "train":
            return self._training
        if self.test_path is None:
            raise ConfigurationError(
                "test_path=None is not usable in a test: allowed are .npz and .pt files and folders"
            )
        return self._read("test_path", self.test_path)

    def split_rule(self, split: Split, labels: Tensor) -> Tensor:
        """Rows of a split: validation is a share ``val_fraction`` of ``train_path``, drawn by ``split_seed``."""
        size = len(labels)
        if split == "test":
            return torch.arange(size)
        border = round(self.val_fraction * size)
        if not 1 <= border < size:
            raise ConfigurationError(
                f"val_fraction={self.val_fraction} is not usable with {size} images: allowed are shares that leave an "
                "image or more on both sides"
            )
        order = stratified_order(labels, self.split_seed, "split")
        return (order[:border] if split == "val" else order[border:]).sort().values

    def _read(self, argument: str, path: str) -> _Contents:
        """Everything a path holds; errors name ``argument``."""
        try:
            if Path(path).is_dir():
                return _read_folder(Path(path), self._classes, self.channels)
            images, labels = _read_arrays(Path(path))
            return _Contents(_checked_images(images, self.native_levels), _checked_labels(labels, len(images)))
        except ConfigurationError as error:
            raise ConfigurationError(f"{argument}={path!r} is not usable: {error}") from error


def _number_of_classes(argument: str, path: str, labels: Tensor) -> int | None:
    known = labels[labels >= 0]
    if len(known) == 0:
        return None
    counts = known.bincount()
    if (counts == 0).any():
        raise ConfigurationError(
            f"{argument}={path!r} is not usable: no image has label {int(counts.argmin())}, but there are labels up to "
            f"{len(counts) - 1}: allowed are labels 0, 1, 2, ... that all occur"
        )
    return len(counts)


# --- files ------------------------------------------------------------------------------------------------------------


def _read_arrays(path: Path) -> tuple[Tensor, Tensor | None]:
    """``images`` and ``labels`` as they are in the file."""
    try:
        if path.suffix == ".npz":
            loaded = np.load(path, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ConfigurationError("it is one array: allowed is an archive, as numpy.savez writes it")
            with loaded as archive:
                require_sane_expansion(_unpacked_bytes(path), path.stat().st_size)
                content = {name: torch.from_numpy(_native(archive[name])) for name in _names(archive.files)}
        elif path.suffix == ".pt":
            if zipfile.is_zipfile(path):  # else it is in the old format of torch.save, which is not compressed
                require_sane_expansion(_unpacked_bytes(path), path.stat().st_size)
            content = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(content, dict):
                raise ConfigurationError(f"it holds a {type(content).__name__}: allowed is a dictionary with 'images'")
            content = {name: content[name] for name in _names(content)}
            for name, value in content.items():
                if not isinstance(value, Tensor):
                    raise ConfigurationError(f"{name!r} is a {type(value).__name__}: allowed are tensors")
                require_sane_expansion(value.nbytes, path.stat().st_size)  # a view may repeat one value for ever
        elif not path.exists():
            raise ConfigurationError("it does not exist: allowed are .npz, .pt and folders")
        else:
            raise ConfigurationError(f"its name ends in {path.suffix!r}: allowed are .npz, .pt and folders")
    except ConfigurationError:
        raise
    # What the readers make of files that are missing, damaged or hold other objects than numbers.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise _unreadable(error) from error
    except pickle.UnpicklingError as error:
        raise ConfigurationError("it is damaged or holds more than tensors: allowed are tensors only") from error
    return content["images"], content.get("labels")


def _unpacked_bytes(path: Path) -> int:
    """What a ZIP archive says it holds; its readers take no more than that. Names that lead out of it are refused."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise ConfigurationError(f"it has a file {name!r}: allowed are names that stay in the archive")
        return sum(member.file_size for member in archive.infolist())


def _unreadable(error: Exception) -> ConfigurationError:
    what = " ".join((str(error) or type(error).__name__).split())
    return ConfigurationError(f"it is missing or damaged ({what}): allowed are .npz, .pt and folders")


def _native(values: np.ndarray) -> np.ndarray:
    """In the byte order of this machine, which is all that torch reads."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def _names(found: Any) -> list[str]:
    """Those of the names ``images`` and ``labels`` that are there; the first one must be."""
    names = [name for name in ("images", "labels") if name in found]
    if "images" not in names:
        raise ConfigurationError(f"it has {', '.join(map(str, found)) or 'nothing'}: allowed is an array 'images'")
    return names


def _checked_images(images: Tensor, levels: int) -> Tensor:
    """``[N, C, H, W]`` uint8 levels."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape:
        raise ConfigurationError(f"its images are {list(images.shape)}: allowed are [N, H, W] and [N, C, H, W]")
    if images.shape[1] > 4 >= images.shape[3]:
        raise ConfigurationError(
            f"its images are {list(images.shape)}, with the channels last: allowed is [N, C, H, W] (numpy.moveaxis)"
        )
    if images.is_floating_point():
        if not ((images >= 0) & (images <= 1)).all():  # NaN is neither
            seen = "NaN" if images.isnan().any() else f"from {images.min():g} to {images.max():g}"
            raise ConfigurationError(f"its images are {seen}: allowed are floating-point numbers in [0, 1]")
        return (images * (levels - 1)).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise ConfigurationError(
            f"its images are {images.dtype}: allowed are unsigned 8-bit integers, and floating-point numbers in [0, 1]"
        )
    top = int(images.max())
    if top >= levels:
        raise ConfigurationError(f"its images have levels up to {top}: allowed are 0 to {levels - 1}")
    return images.contiguous()


def _checked_labels(labels: Tensor | None, number: int) -> Tensor:
    """``[N]`` int64; all -1 where there are none."""
    if labels is None:
        return torch.full((number,), -1)
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise ConfigurationError(f"its labels are {labels.dtype}: allowed are integers, -1 for an image without label")
    if labels.shape != (number,):
        raise ConfigurationError(f"its labels are {list(labels.shape)}: allowed is [{number}], one for each image")
    labels = labels.long()
    if labels.min() < -1:
        raise ConfigurationError(f"its labels go down to {int(labels.min())}: allowed are 0, 1, 2, ... and -1")
    return labels


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _class_folders(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder) if path.is_dir()]


def _read_folder(folder: Path, classes: list[str], channels: int | None) -> _Contents:
    """All pictures, those with label first, class by class."""
    found: list[tuple[Path, int]] = []
    for name in _class_folders(folder):
        if name not in classes:
            raise ConfigurationError(f"it has class {name!r}: allowed are those of train_path, {', '.join(classes)}")
        pictures = _entries(folder / name)
        if not pictures:
            raise ConfigurationError(f"class {name!r} is empty: allowed are classes with an image or more")
        found += [(path, classes.index(name)) for path in pictures]
    found += [(path, -1) for path in _entries(folder) if not path.is_dir()]
    if not found:
        raise ConfigurationError("it is empty: allowed is a folder with pictures")
    images = [_read_picture(path, channels) for path, _ in found]
    for image, (path, _) in zip(images, found, strict=True):
        if image.shape != images[0].shape:
            raise ConfigurationError(
                f"{path} is {list(image.shape)} (channels, height, width), {found[0][0]} is {list(images[0].shape)}: "
                "allowed are pictures of one size and kind"
            )
    return _Contents(torch.stack(images), torch.tensor([label for _, label in found]))


def _read_picture(path: Path, channels: int | None) -> Tensor:
    """``[C, H, W]`` uint8."""
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() not in _PICTURES:
        raise ConfigurationError(f"{path} is no picture: allowed are {', '.join(_PICTURES)}")
    try:
        with Image.open(path) as picture:
            if channels is not None:
                picture = picture.convert(_MODES[channels])  # type: ignore[assignment]
            if picture.mode not in _MODES.values():
                raise ConfigurationError(
                    f"{path} has mode {picture.mode}: allowed are L (grey) and RGB, or channels=1 or 3 to convert it"
                )
            pixels = np.array(picture)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigurationError(f"{path} is damaged ({error}): allowed are pictures that can be read") from error
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()
