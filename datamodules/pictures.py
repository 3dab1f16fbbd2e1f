"""Picture files of any kind as 8-bit images, in one place: nothing is read wrongly without a word."""

from __future__ import annotations

import struct
import warnings
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from pixelgan_lightning.datamodules.conversion import (
    Conversion,
    seen_range,
    to_channels,
    to_levels,
    to_square,
    usual_range,
)
from pixelgan_lightning.datamodules.expansion import require_memory
from pixelgan_lightning.errors import ConfigurationError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".tif", ".tiff", ".bmp"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
"""How the names of pictures end."""

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")  # of Pillow; no others are tried
_SAMPLE_FORMAT, _BITS, _PHOTOMETRIC = 339, 258, 262  # tags of TIFF
_GAMMA = 1 / 2.2

_NOTES = {
    "transparent": "have transparent parts, which are laid over background={background:g}",
    "frames": "have several frames or pages, of which the first is read",
    "profile": "have a colour profile that cannot be applied, and are read without it",
    "gamma": "have a gamma of their own, which is not applied",
}


class PictureReader:
    """Reads picture files, and remembers what has to be said about them.

    | in the file | what is read |
    | --- | --- |
    | 1 bit | black and white |
    | grey, 2 to 8 bits | grey, white is 255 (a white that is stored as 0 in TIFF too) |
    | grey, 12 or 16 bits | scaled to 8 bits, from 0 and 4095 or 65535, or from ``value_range`` |
    | grey, floating point | scaled from 0.0 and 1.0, or from ``value_range``; other values are refused |
    | grey, signed or 32 bits | refused without ``value_range``: what is white does not follow from the file |
    | signed 8 bits | refused |
    | colours, 8 bits | colours |
    | colours, 16 bits | their upper 8 bits |
    | palette | its colours; grey where all of them are greys |
    | CMYK, YCbCr, LAB | converted to sRGB, CMYK by the profile of the file where it has one |
    | colour profile (ICC) | converted to sRGB; one that cannot be applied is left out, which is said |
    | gamma of PNG | not applied, which is said unless it is that of sRGB |
    | transparency | laid over ``background``, white by default, which is said |
    | orientation (EXIF) | turned and mirrored as viewers show it |
    | frames, pages | the first one, which is said: GIF, WebP, APNG, TIFF, stereo JPEG |
    | more than 89 million pixels | refused |
    | HEIC, JPEG 2000, raw, SVG... | refused |

    Args:
        conversion: number of channels, range of values, background and size that are wanted.
    """

    def __init__(self, conversion: Conversion | None = None) -> None:
        self.conversion = conversion or Conversion()
        self._read = 0
        self._notes: Counter[str] = Counter()
        self._deep: tuple[float, float] | None = None  # largest value of pictures of 12 or 16 bits, and their white

    def read(self, file: Path | bytes, name: str | None = None) -> Tensor:
        """The picture in a file, or in its bytes.

        Args:
            file: where the picture is, or what is in it.
            name: what errors call it; None for the path.

        Returns:
            ``[C, H, W]`` uint8.

        Raises:
            ConfigurationError: it is missing, damaged or of a kind that is refused.
        """
        name = str(file) if name is None else name
        try:
            # Not by its path: Pillow 13 maps uncompressed TIFFs that lie on their side into memory as if they did not.
            with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    picture = Image.open(opened, formats=_FORMATS)
                return self.convert(picture, name)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ConfigurationError(
                f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels: allowed are smaller pictures"
            ) from error
        except UnidentifiedImageError as error:
            raise ConfigurationError(
                f"{name} is damaged or of a kind that is not read: allowed are {', '.join(_FORMATS)}"
            ) from error
        # What Pillow raises on damaged files.
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error) as error:
            if isinstance(error, ConfigurationError):
                raise
            what = " ".join(str(error).split()) or type(error).__name__
            raise ConfigurationError(f"{name} is damaged ({what}): allowed are pictures that can be read") from error

    def convert(self, picture: Image.Image, name: str) -> Tensor:
        """An open picture of Pillow, as :meth:`read` returns it.

        Raises:
            ConfigurationError: it is of a kind that is refused.
        """
        wanted = self.conversion
        self._read += 1
        self._notes["frames"] += getattr(picture, "n_frames", 1) > 1
        tags = getattr(picture, "tag_v2", {})
        if tags.get(_SAMPLE_FORMAT, (1,))[0] == 2 and picture.mode == "L":
            raise ConfigurationError(f"{name} has signed 8-bit values: allowed are unsigned ones")
        white_is_zero = tags.get(_PHOTOMETRIC, 1) == 0
        white = _white(picture)
        is_grey = _is_grey(picture)
        picture.load()
        profile = picture.info.get("icc_profile")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("F", "I") or upright.mode.startswith("I;16"):
            pixels = self._grey_levels(upright, white, white_is_zero, name)
            self._notes["profile"] += profile is not None and not _is_srgb(profile)
        else:
            pixels = self._colours(upright, profile, is_grey)
            if wanted.value_range is not None:
                try:
                    colours = to_levels(
                        pixels[..., : 1 if pixels.shape[2] <= 2 else 3], wanted.value_range, wanted.levels
                    )
                except ConfigurationError as error:
                    raise ConfigurationError(f"{name} has {error}") from error
                pixels = np.concatenate([colours, pixels[..., colours.shape[2] :]], axis=2)
        if pixels.shape[2] in (2, 4):
            self._notes["transparent"] += bool((pixels[..., -1] < 255).any())
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        image = to_channels(image, wanted.channels, wanted.background_level)
        if wanted.side is not None:
            image = to_square(image, wanted.side, wanted.fit, wanted.background_level)
        return image[0]

    def report(self, where: str) -> None:
        """Say, in a line each, what was done to some of the pictures read so far, which are ``where``.

        Raises:
            ConfigurationError: all pictures of 12 or 16 bits are black, as far as 8 bits go.
        """
        if self._deep is not None:
            top, white = self._deep
            if top < white / 256:
                raise ConfigurationError(
                    f"its pictures have values up to {top:g}, where white is {white:g}: allowed are brighter pictures"
                    f"{usual_range(np.array(top))}"
                )
            if top < white / 4:
                rank_zero_info(
                    f"{where}: no picture is brighter than {top:g}, where white is {white:g}; value_range says "
                    "otherwise where it is not"
                )
        for note, text in _NOTES.items():
            if self._notes[note]:
                what = text.format(background=self.conversion.background)
                rank_zero_info(f"{where}: {self._notes[note]} of {self._read} pictures {what}")
        self._read, self._deep = 0, None
        self._notes.clear()

    def _grey_levels(self, picture: Image.Image, white: float | None, white_is_zero: bool, name: str) -> np.ndarray:
        """A picture of more than 8 bits as levels ``[H, W, 1]``, or ``[H, W, 2]`` with opacity."""
        wanted = self.conversion
        values = np.array(picture)
        if wanted.value_range is not None:
            value_range = wanted.value_range
        elif white is None:
            raise ConfigurationError(
                f"{name} has {seen_range(values)}, of which none is said to be white: allowed are others"
                f"{usual_range(values).removeprefix(', and others')}"
            )
        else:
            value_range = (0.0, white)
            if picture.mode != "F":
                top = max(float(values.max()), 0.0 if self._deep is None else self._deep[0])
                self._deep = (top, white)
        try:
            levels = to_levels(values, value_range, wanted.levels)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name} has {error}") from error
        if white_is_zero:
            levels = wanted.levels - 1 - levels
        transparent = picture.info.get("transparency")
        if transparent is None:
            return levels[..., None]
        return np.stack([levels, np.where(values == transparent, 0, 255).astype(np.uint8)], axis=2)

    def _colours(self, picture: Image.Image, profile: bytes | None, is_grey: bool) -> np.ndarray:
        """A picture of at most 8 bits a channel, ``[H, W, 1 to 4]``: grey or sRGB, with opacity where it has it."""
        opacity = None
        if picture.mode in ("La", "RGBa"):  # premultiplied
            picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
        if picture.has_transparency_data:
            picture.apply_transparency()  # a palette's, without a warning
            opacity = np.array(picture.convert("RGBA").getchannel("A"))
        if is_grey:
            picture = picture.convert("RGB").getchannel("G")
        elif picture.mode not in ("CMYK", "LAB"):
            picture = picture.convert("RGB")
        picture = self._to_srgb(picture, profile)
        pixels = np.array(picture).reshape(*reversed(picture.size), -1)
        return pixels if opacity is None else np.concatenate([pixels, opacity[..., None]], axis=2)

    def _to_srgb(self, picture: Image.Image, profile: bytes | None) -> Image.Image:
        """Grey or sRGB, of L, RGB, CMYK or LAB."""
        if picture.mode == "LAB":
            to_rgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")
            return ImageCms.applyTransform(picture, to_rgb) or picture
        if profile and not _is_srgb(profile):
            try:
                return _by_profile(picture, profile)
            except (ImageCms.PyCMSError, OSError, ValueError):
                self._notes["profile"] += 1
        elif not profile and abs(picture.info.get("gamma", _GAMMA) - _GAMMA) > 0.01 and "srgb" not in picture.info:
            self._notes["gamma"] += 1
        return picture.convert("RGB") if picture.mode == "CMYK" else picture


def read_pictures(files: Iterable[tuple[Path | bytes, str]], number: int, where: str, conversion: Conversion) -> Tensor:
    """Pictures of one size, or made so.

    Args:
        files: where the pictures are, or what is in them; and what errors call them.
        number: how many there are, at least one.
        where: what is said about them begins with that.
        conversion: what they are made into.

    Returns:
        ``[N, C, H, W]`` uint8.

    Raises:
        ConfigurationError: a picture is refused, or is of another size or number of channels than the first one.
    """
    reader = PictureReader(conversion)
    first, images = "", torch.empty(0)
    for row, (file, name) in enumerate(files):
        image = reader.read(file, name)
        if row == 0:
            require_memory(number, image.numel())
            first, images = name, torch.empty(number, *image.shape, dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            option = "side=32" if image.shape[0] == images.shape[1] else "channels=3"
            raise ConfigurationError(
                f"{name} is {list(image.shape)} (channels, height, width), {first} is {list(images.shape[1:])}: "
                f"allowed are pictures of one size and kind, or to make them so by {option} for one"
            )
        images[row] = image
    reader.report(where)
    return images


def _is_grey(picture: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has no colours: a palette of greys is grey."""
    if picture.mode == "P":
        colours = np.array(picture.convert("RGBA"))[..., :3]
        return bool((colours == colours[..., :1]).all())
    # Pillow has no mode for 16 bits of grey with transparency, and reads it as colours.
    return picture.mode in ("1", "L", "LA", "La") or any(
        "LA;16B" in str(tile.args) for tile in getattr(picture, "tile", ())
    )


def _white(picture: Image.Image) -> float | None:
    """The value of white in a picture of more than 8 bits; None where the file does not say."""
    if picture.mode == "F":
        return 1.0
    if picture.mode.startswith("I;16"):
        bits = getattr(picture, "tag_v2", {}).get(_BITS, (16,))[0]
        return float(2**bits - 1)
    return 65535.0 if picture.format in ("PNG", "PPM") else None


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _is_srgb(profile: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return False


def _by_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Grey stays grey, everything else becomes sRGB."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    grey = picture.mode == "L"
    if grey and source.profile.xcolor_space.strip() == "RGB":
        picture = picture.convert("RGB")
    converted = ImageCms.profileToProfile(picture, source, _srgb(), outputMode="RGB")
    assert converted is not None  # a new picture, as inPlace is False
    return converted.convert("L") if grey else converted
