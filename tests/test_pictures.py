"""One test for each row of the table in ``PictureReader``: a real file, and the pixels that it should give."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictureformats import (
    grey_cmyk_profile,
    linear_grey_profile,
    linear_rgb_profile,
    write_png,
    write_tiff,
)
from PIL import Image

from pixelgan_lightning.datamodules.conversion import Conversion, to_channels, to_square
from pixelgan_lightning.datamodules.pictures import PictureReader
from pixelgan_lightning.errors import ConfigurationError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5  # 0 to 235
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
DEEP = GREY.astype(np.uint16) * 257  # the same in 16 bits
LINEAR = {0: 0, 128: 188, 255: 255}  # light as a camera counts it, and as a grey value of sRGB


def grey(path: Path, **wanted: Any) -> np.ndarray:
    image = PictureReader(Conversion(**wanted)).read(path)
    assert image.shape[0] == 1
    return image[0].numpy()


def colours(path: Path, **wanted: Any) -> np.ndarray:
    image = PictureReader(Conversion(**wanted)).read(path)
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def refusal(path: Path, **wanted: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        PictureReader(Conversion(**wanted)).read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(reader: PictureReader, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level("INFO"):
        reader.report("mine")
    return [record.getMessage() for record in caplog.records]


# --- depth ------------------------------------------------------------------------------------------------------------


def test_one_bit(tmp_path: Path) -> None:
    for name in ("x.png", "x.tif", "x.pbm", "x.bmp", "x.gif"):
        Image.fromarray(GREY > 100).save(tmp_path / name)
        assert (grey(tmp_path / name) == (GREY > 100) * 255).all()


def test_grey_of_eight_bits(tmp_path: Path) -> None:
    for name in ("x.png", "x.tif", "x.pgm", "x.bmp", "x.gif"):
        Image.fromarray(GREY).save(tmp_path / name)
        assert (grey(tmp_path / name) == GREY).all()
        assert (colours(tmp_path / name, channels=3) == GREY[..., None]).all()
    write_tiff(tmp_path / "white0.tif", 255 - GREY, bits=8, photometric=0)
    assert (grey(tmp_path / "white0.tif") == GREY).all()


def test_grey_of_two_and_four_bits_reaches_white(tmp_path: Path) -> None:
    rows = np.array([[0x01, 0xEF]], dtype=np.uint8)
    write_png(tmp_path / "4.png", rows, depth=4, colour=0)
    assert grey(tmp_path / "4.png").tolist() == [[0, 17, 14 * 17, 255]]
    write_png(tmp_path / "2.png", np.array([[0b00011011]], dtype=np.uint8), depth=2, colour=0)
    assert grey(tmp_path / "2.png").tolist() == [[0, 85, 170, 255]]
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 15\n\x00\x01\x0f")
    assert grey(tmp_path / "x.pgm").tolist() == [[0, 17, 255]]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "little.tif", "big.tif"])
def test_grey_of_sixteen_bits_is_scaled(tmp_path: Path, name: str) -> None:
    if name in ("little.tif", "big.tif"):
        write_tiff(tmp_path / name, DEEP.astype("<u2" if name == "little.tif" else ">u2"), bits=16)
    elif name == "x.pgm":
        (tmp_path / name).write_bytes(b"P5 8 6 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(tmp_path / name)
    for wanted in ({}, {"channels": 1}):
        assert (grey(tmp_path / name, **wanted) == GREY).all()
    assert (colours(tmp_path / name, channels=3) == GREY[..., None]).all()
    assert (grey(tmp_path / name, value_range=(0, 65535)) == GREY).all()
    assert "has 16-bit unsigned" in refusal(tmp_path / name, value_range=(0, 255)) or name in ("x.pgm",)


def test_grey_of_twelve_bits_is_scaled_from_4095(tmp_path: Path) -> None:
    values = np.array([[0, 4095], [2048, 1000]], dtype=np.uint16)
    write_tiff(tmp_path / "x.tif", values, bits=12)
    assert (grey(tmp_path / "x.tif") == np.rint(values / 4095 * 255)).all()


def test_sixteen_bits_with_white_stored_as_zero(tmp_path: Path) -> None:
    write_tiff(tmp_path / "x.tif", 65535 - DEEP, bits=16, photometric=0)
    assert (grey(tmp_path / "x.tif") == GREY).all()
    write_tiff(tmp_path / "y.tif", (1 - GREY / np.float32(255)).astype("<f4"), bits=32, photometric=0, sample_format=3)
    assert (grey(tmp_path / "y.tif") == GREY).all()


def test_twelve_bits_in_sixteen_are_told_and_nothing_is_read_as_black(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for top, name in ((4095, "12.png"), (255, "8.png")):
        Image.fromarray((GREY.astype(int) * top // 235).astype(np.uint16)).save(tmp_path / name)
    reader = PictureReader()
    reader.read(tmp_path / "12.png")
    (line,) = said(reader, caplog)
    assert "no picture is brighter than 4095, where white is 65535; value_range" in line
    reader.read(tmp_path / "8.png")
    with pytest.raises(ConfigurationError, match=r"values up to 255, where white is 65535: .* value_range=\[0, 255\]"):
        reader.report("mine")
    assert (grey(tmp_path / "8.png", value_range=(0, 255)) == GREY.astype(int) * 255 // 235).all()


def test_floating_point_values_are_scaled_from_zero_and_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(GREY / np.float32(255)).save(path)
    for wanted in ({}, {"channels": 1}):
        assert (grey(path, **wanted) == GREY).all()
    Image.fromarray(GREY.astype(np.float32)).save(path)
    assert (
        "floating-point numbers from 0 to 235: allowed are 0 (black) to 1 (white), and others with value_range=[0, 255]"
        in refusal(path)
    )
    assert (grey(path, value_range=(0, 255)) == GREY).all()
    Image.fromarray(GREY / np.float32(127.5) - 1).save(path)
    assert (grey(path, value_range=(-1, 1)) == GREY).all()
    Image.fromarray(np.where(GREY == 5, np.nan, GREY / 255).astype(np.float32)).save(path)
    assert "NaN or infinite" in refusal(path)


def test_integers_without_a_known_white_are_refused_without_a_range(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for values, bits, sample_format in (
        (GREY.astype("<i4"), 32, 2),
        (GREY.astype("<u4"), 32, 1),
        (GREY.astype("<i2"), 16, 2),
        (GREY.astype(">i2"), 16, 2),
    ):
        write_tiff(path, values, bits=bits, sample_format=sample_format)
        assert (
            "integers from 0 to 235, of which none is said to be white: allowed are others with value_range=[0, 255]"
            in refusal(path)
        )
        assert (grey(path, value_range=(0, 255)) == GREY).all()
    write_tiff(path, GREY.view("i1"), bits=8, sample_format=2)
    assert "signed 8-bit" in refusal(path)


def test_the_range_of_eight_bits_can_be_given(tmp_path: Path) -> None:
    """A mask of zeros and ones would be black throughout."""
    Image.fromarray((GREY > 100).astype(np.uint8)).save(tmp_path / "x.png")
    assert (grey(tmp_path / "x.png", value_range=(0, 1)) == (GREY > 100) * 255).all()
    Image.fromarray(GREY).save(tmp_path / "x.png")
    assert "unsigned integers from 0 to 235: allowed are 0" in refusal(tmp_path / "x.png", value_range=(0, 1))


# --- colours ----------------------------------------------------------------------------------------------------------


def test_colours_of_eight_and_sixteen_bits(tmp_path: Path) -> None:
    for name in ("x.png", "x.tif", "x.ppm", "x.bmp"):
        Image.fromarray(COLOURS).save(tmp_path / name)
        assert (colours(tmp_path / name) == COLOURS).all()
        luma = COLOURS @ np.array([0.299, 0.587, 0.114])
        assert np.abs(grey(tmp_path / name, channels=1) - luma).max() <= 0.51
        with Image.open(tmp_path / name) as picture:
            assert (grey(tmp_path / name, channels=1) == np.array(picture.convert("L"))).all()
    deep = (COLOURS.astype(np.uint16) * 257).astype(">u2")
    write_png(tmp_path / "16.png", deep.reshape(6, -1).view(np.uint8), depth=16, colour=2)
    assert (colours(tmp_path / "16.png") == COLOURS).all()


def test_jpeg_and_webp_are_near_what_was_stored(tmp_path: Path) -> None:
    smooth = np.array(Image.fromarray(COLOURS).resize((32, 32), Image.Resampling.BICUBIC))
    for name in ("x.jpg", "x.jfif", "x.webp"):
        Image.fromarray(smooth).save(tmp_path / name, quality=98)
        assert np.abs(colours(tmp_path / name).astype(int) - smooth).mean() < 4
    Image.fromarray(smooth).save(tmp_path / "y.webp", lossless=True)
    assert (colours(tmp_path / "y.webp") == smooth).all()


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.bmp", "x.tif"])
def test_a_palette_is_read_as_its_colours(tmp_path: Path, name: str) -> None:
    few = COLOURS // 128 * 100 + np.array([3, 50, 7], dtype=np.uint8)
    Image.fromarray(few).quantize(8).save(tmp_path / name)
    assert (colours(tmp_path / name) == few).all()


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_is_converted_to_rgb(tmp_path: Path, name: str) -> None:
    inks = np.zeros((8, 8, 4), dtype=np.uint8)
    inks[:, 4:, 0] = 255  # paper, and cyan
    Image.fromarray(inks, mode="CMYK").save(tmp_path / name)
    image = colours(tmp_path / name)
    assert np.abs(image[0, 0].astype(int) - 255).max() <= 2
    assert np.abs(image[0, 7].astype(int) - [0, 255, 255]).max() <= 2
    Image.fromarray(inks, mode="CMYK").save(tmp_path / name, icc_profile=grey_cmyk_profile())
    image = colours(tmp_path / name)
    assert np.abs(image[0, 0].astype(int) - 255).max() <= 2
    assert np.abs(image[0, 7].astype(int) - 119).max() <= 4  # lightness 50


def test_ycbcr_and_lab_are_converted_to_rgb(tmp_path: Path) -> None:
    flat = np.tile(np.array([200, 60, 30], dtype=np.uint8), (4, 4, 1))
    Image.fromarray(flat).convert("YCbCr").save(tmp_path / "x.tif")
    assert np.abs(colours(tmp_path / "x.tif").astype(int) - flat).max() <= 2
    lab = np.tile(np.array([127, 0, 0], dtype=np.uint8), (4, 4, 1))  # grey of half the lightness
    Image.fromarray(lab, mode="LAB").save(tmp_path / "y.tif")
    with Image.open(tmp_path / "y.tif") as picture:
        assert picture.mode == "LAB"
    assert np.abs(colours(tmp_path / "y.tif").astype(int) - 119).max() <= 3
    assert np.abs(grey(tmp_path / "y.tif", channels=1).astype(int) - 119).max() <= 3


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.webp"])
def test_a_colour_profile_is_applied(tmp_path: Path, name: str) -> None:
    for value, expected in LINEAR.items():
        flat = np.full((8, 8, 3), value, dtype=np.uint8)
        Image.fromarray(flat).save(tmp_path / name, icc_profile=linear_rgb_profile())
        assert np.abs(colours(tmp_path / name).astype(int) - expected).max() <= 1
        assert np.abs(grey(tmp_path / name, channels=1).astype(int) - expected).max() <= 1
        if name != "x.webp":  # which has no grey
            Image.fromarray(flat[..., 0]).save(tmp_path / name, icc_profile=linear_grey_profile())
            assert np.abs(grey(tmp_path / name).astype(int) - expected).max() <= 1
            Image.fromarray(flat[..., 0]).save(tmp_path / name, icc_profile=linear_rgb_profile())
            assert np.abs(grey(tmp_path / name).astype(int) - expected).max() <= 1


def test_a_profile_of_srgb_changes_nothing_and_a_damaged_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, lines in ((srgb, 0), (b"no profile", 1), (grey_cmyk_profile(), 1)):
        Image.fromarray(COLOURS).save(tmp_path / "x.png", icc_profile=profile)
        reader = PictureReader()
        assert (reader.read(tmp_path / "x.png").permute(1, 2, 0).numpy() == COLOURS).all()
        reader.read(tmp_path / "x.png")
        heard = said(reader, caplog)
        assert len(heard) == lines
        assert all("mine: 2 of 2 pictures have a colour profile that cannot be applied" in line for line in heard)
    Image.fromarray(DEEP).save(tmp_path / "x.png", icc_profile=linear_grey_profile())
    assert (reader.read(tmp_path / "x.png")[0].numpy() == GREY).all()
    assert len(said(reader, caplog)) == 1


def test_a_gamma_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = PictureReader()
    for gamma, lines in ((45455, 0), (100000, 1)):
        write_png(tmp_path / "x.png", GREY, depth=8, colour=0, gAMA=struct.pack(">I", gamma))
        assert (reader.read(tmp_path / "x.png")[0].numpy() == GREY).all()
        assert len(said(reader, caplog)) == lines


# --- transparency -----------------------------------------------------------------------------------------------------


def laid(values: np.ndarray, opacity: np.ndarray, background: int) -> np.ndarray:
    return values * (opacity / 255) + background * (1 - opacity / 255)


OPACITY = GREY.T.reshape(6, 8)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("background", [0.0, 1.0, 0.2])
def test_transparent_parts_show_the_background(tmp_path: Path, name: str, background: float) -> None:
    level = round(255 * background)
    pixels = np.concatenate([COLOURS, OPACITY[..., None]], axis=2)
    options = {"lossless": True, "exact": True} if name == "x.webp" else {}
    Image.fromarray(pixels, mode="RGBA").save(tmp_path / name, **options)
    image = colours(tmp_path / name, background=background)
    assert np.abs(image - laid(COLOURS, OPACITY[..., None], level)).max() <= 0.51
    lone = grey(tmp_path / name, background=background, channels=1)
    assert np.abs(lone - laid(COLOURS @ [0.299, 0.587, 0.114], OPACITY, level)).max() <= 1.01
    if name != "x.webp":
        Image.fromarray(np.stack([GREY, OPACITY], axis=2), mode="LA").save(tmp_path / name)
        assert np.abs(grey(tmp_path / name, background=background) - laid(GREY, OPACITY, level)).max() <= 0.51


def test_colours_that_are_stored_as_dark_as_they_are_transparent(tmp_path: Path) -> None:
    """TIFF's "associated alpha": the stored values are those that lie over black."""
    for mode, samples in (("RGBA", 4), ("LA", 2)):
        pixels = np.full((4, 4, samples), 100, dtype=np.uint8)
        Image.fromarray(pixels, mode=mode).save(tmp_path / "x.tif")
        content = (tmp_path / "x.tif").read_bytes()
        unassociated, associated = (struct.pack("<HHIH", 338, 3, 1, kind) for kind in (2, 1))
        assert content.count(unassociated) == 1
        (tmp_path / "x.tif").write_bytes(content.replace(unassociated, associated))
        image = PictureReader(Conversion(background=0.0)).read(tmp_path / "x.tif").int()
        assert (image - 100).abs().max() <= 1
        image = PictureReader(Conversion(background=1.0)).read(tmp_path / "x.tif").int()
        assert (image - 255).abs().max() <= 1


def test_a_black_drawing_on_nothing_is_a_drawing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawing = np.zeros((6, 8, 4), dtype=np.uint8)
    drawing[2:4, :, 3] = 255
    Image.fromarray(drawing).save(tmp_path / "x.png")
    reader = PictureReader(Conversion(channels=1))
    image = reader.read(tmp_path / "x.png")[0]
    assert image[0].tolist() == [255] * 8
    assert image[2].tolist() == [0] * 8
    assert said(reader, caplog) == ["mine: 1 of 1 pictures have transparent parts, which are laid over background=1"]
    Image.fromarray(np.where(True, 255, drawing).astype(np.uint8)).save(tmp_path / "opaque.png")
    reader.read(tmp_path / "opaque.png")
    assert said(reader, caplog) == []


def test_palettes_and_single_values_can_be_transparent(tmp_path: Path) -> None:
    indices = (GREY > 100).astype(np.uint8)
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    expected = np.where(indices[..., None] == 0, 255, np.array([200, 100, 50]))
    for name in ("x.png", "x.gif"):
        palette.save(tmp_path / name, transparency=0)
        assert (colours(tmp_path / name) == expected).all()
    half = np.where(indices[..., None] == 0, [132, 137, 142], np.array([200, 100, 50]))
    palette.save(tmp_path / "x.png", transparency=bytes([128, 255]))
    assert np.abs(colours(tmp_path / "x.png") - half).max() <= 1
    with_opacity = palette.convert("PA")
    with_opacity.putalpha(Image.fromarray(indices * 255))
    with_opacity.save(tmp_path / "pa.tif")
    with Image.open(tmp_path / "pa.tif") as picture:
        assert picture.mode == "PA"
    assert (colours(tmp_path / "pa.tif") == expected).all()
    Image.fromarray(GREY).save(tmp_path / "x.png", transparency=50)
    assert (grey(tmp_path / "x.png") == np.where(GREY == 50, 255, GREY)).all()
    Image.fromarray(COLOURS).save(tmp_path / "x.png", transparency=tuple(COLOURS[1, 1].tolist()))
    assert colours(tmp_path / "x.png")[1, 1].tolist() == [255, 255, 255]
    assert (colours(tmp_path / "x.png")[0] == COLOURS[0]).all()
    write_png(
        tmp_path / "16.png", DEEP.astype(">u2").view(np.uint8), depth=16, colour=0, tRNS=struct.pack(">H", 50 * 257)
    )
    assert (grey(tmp_path / "16.png") == np.where(GREY == 50, 255, GREY)).all()
    write_png(
        tmp_path / "1.png", np.array([[0b10101010]], dtype=np.uint8), depth=1, colour=0, tRNS=struct.pack(">H", 0)
    )
    assert grey(tmp_path / "1.png", background=0.2).tolist() == [[255, 51] * 4]


def test_sixteen_bits_of_colour_with_transparency(tmp_path: Path) -> None:
    pixels = np.concatenate([COLOURS, OPACITY[..., None]], axis=2).astype(np.uint16) * 257
    write_png(tmp_path / "x.png", pixels.astype(">u2").reshape(6, -1).view(np.uint8), depth=16, colour=6)
    assert np.abs(colours(tmp_path / "x.png") - laid(COLOURS, OPACITY[..., None], 255)).max() <= 0.51
    deep = np.stack([GREY, OPACITY], axis=2).astype(np.uint16) * 257
    write_png(tmp_path / "y.png", deep.astype(">u2").reshape(6, -1).view(np.uint8), depth=16, colour=4)
    assert np.abs(grey(tmp_path / "y.png") - laid(GREY, OPACITY, 255)).max() <= 0.51


# --- orientation, frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.webp", "deep.png", "deep.tif"])
def test_pictures_are_upright(tmp_path: Path, name: str) -> None:
    """What is stored is what a camera that is held in one of eight ways makes of the same view."""
    view = np.zeros((16, 32), dtype=np.uint8)
    view[:8, :16], view[8:, 16:] = 100, 200
    stored = {
        1: view,
        2: view[:, ::-1],
        3: view[::-1, ::-1],
        4: view[::-1],
        5: view.T,
        6: np.rot90(view),
        7: view[::-1, ::-1].T,
        8: np.rot90(view, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = pixels.astype(np.uint16) * 257 if name.startswith("deep") else pixels
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        options = {"lossless": True} if name == "x.webp" else {"quality": 100} if name == "x.jpg" else {}
        picture.save(tmp_path / name, exif=exif, **options)
        image = PictureReader(Conversion(channels=1)).read(tmp_path / name)[0].numpy()
        assert image.shape == (16, 32), orientation
        assert np.abs(image.astype(int) - view).max() <= 3, orientation


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp", "x.png", "x.jpg"])
def test_the_first_of_several_frames_is_read_and_told(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)) for value in (200, 100, 50)]
    options = {"lossless": True} if name == "x.webp" else {"format": "MPO"} if name == "x.jpg" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    reader = PictureReader(Conversion(channels=1))
    image = reader.read(tmp_path / name)
    assert image.unique().tolist() == [200]
    assert said(reader, caplog) == ["mine: 1 of 1 pictures have several frames or pages, of which the first is read"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"nothing of the kind")
    assert "damaged or of a kind that is not read: allowed are PNG, JPEG" in refusal(path)
    Image.fromarray(GREY).save(path)
    whole = path.read_bytes()
    for length in (0, 10, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert "damaged" in refusal(path)
    Image.fromarray(GREY).save(tmp_path / "x.jp2")
    assert "of a kind that is not read" in refusal(tmp_path / "x.jp2")
    assert "No such file" in refusal(tmp_path / "nowhere.png")


def test_a_picture_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    for side in (10_000, 60_000):
        write_png(tmp_path / "x.png", np.zeros((1, 1), dtype=np.uint8), depth=8, colour=0)
        content = bytearray((tmp_path / "x.png").read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        import zlib

        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (tmp_path / "x.png").write_bytes(content)
        assert "pixels: allowed are smaller pictures" in refusal(tmp_path / "x.png")


# --- size -------------------------------------------------------------------------------------------------------------


def test_pictures_become_squares(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (grey(tmp_path / "x.png", side=2) == 200).all()
    padded = grey(tmp_path / "x.png", side=3, fit="pad", background=0.2)
    assert padded.tolist() == [[51, 51, 51], [0, 200, 0], [51, 51, 51]]
    assert (grey(tmp_path / "x.png", side=4) == 200).all()
    assert grey(tmp_path / "x.png", side=7).shape == (7, 7)


def test_resizing_does_not_alias() -> None:
    """Stripes of single pixels are grey from afar, whatever the size; a ramp stays one when enlarged."""
    stripes = (torch.arange(100) % 2 * 200).to(torch.uint8).expand(1, 1, 100, 100)
    for side in (10, 20, 33, 7):
        assert (to_square(stripes, side, "crop", 0)[..., 1:-1].int() - 100).abs().max() <= 25
    ramp = torch.arange(0, 200, 20, dtype=torch.uint8).expand(1, 1, 10, 10)
    assert (to_square(ramp, 25, "crop", 0)[0, 0, 0].int().diff() >= 0).all()
    assert to_square(ramp, 10, "crop", 0) is not None
    assert torch.equal(to_square(ramp, 10, "crop", 0), ramp)


def test_channels_are_converted_for_any_number_of_images() -> None:
    images = torch.randint(256, (3000, 4, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for channels in (1, 3):
        converted = to_channels(images, channels, 255)
        assert converted.shape == (3000, channels, 2, 3)
        for row in (0, 2999):
            assert torch.equal(converted[row], to_channels(images[row : row + 1], channels, 255)[0])
    assert torch.equal(to_channels(images[:, :3], None, 0), images[:, :3])
