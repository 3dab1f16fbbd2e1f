"""Writes picture files of the kinds that Pillow reads but does not write, by their specifications."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def write_png(path: Path, rows: np.ndarray, depth: int, colour: int, **chunks: bytes) -> None:
    """A PNG of ``rows`` (bytes ``[H, bytes of a row]``, packed as ``depth`` and ``colour`` type say), other chunks."""
    height, width = rows.shape[0], rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = {
        "IHDR": struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0),
        **chunks,
        "IDAT": data,
        "IEND": b"",
    }
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in content.items():
            name = kind.encode()
            file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))


def write_tiff(path: Path, values: np.ndarray, *, bits: int, photometric: int = 1, sample_format: int = 1) -> None:
    """An uncompressed grey TIFF, in the byte order of ``values`` ``[H, W]`` (12 bits: two values in 3 bytes)."""
    big = values.dtype.byteorder == ">"
    order = ">" if big else "<"
    data = values.tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        joined = (pairs[:, 0] << 12) | pairs[:, 1]
        data = b"".join(int(pair).to_bytes(3, "big") for pair in joined)
    height, width = values.shape
    tags = [
        *((256, width), (257, height), (258, bits), (259, 1), (262, photometric)),
        *((273, 8), (277, 1), (278, height), (279, len(data)), (339, sample_format)),
    ]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    start = struct.pack(f"{order}2sHI", b"MM" if big else b"II", 42, 8 + len(data))
    path.write_bytes(start + data + directory)


def _icc(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A colour profile (version 2) with these tags beside its description."""
    text = b"made for tests\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    white = b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": white, **tags}
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


_LINEAR = b"curv\0\0\0\0" + struct.pack(">I", 0)


def linear_grey_profile() -> bytes:
    """Grey values that are light, as a camera counts it: half of it is grey value 188 of sRGB."""
    return _icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": _LINEAR})


def linear_rgb_profile() -> bytes:
    """The primaries of sRGB, with values that are light."""
    primaries = {b"r": (0.4360, 0.2225, 0.0139), b"g": (0.3851, 0.7169, 0.0971), b"b": (0.1431, 0.0606, 0.7141)}
    tags = {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*xyz) for name, xyz in primaries.items()}
    return _icc(b"RGB ", b"XYZ ", b"mntr", {**tags, **{name + b"TRC": _LINEAR for name in primaries}})


def grey_cmyk_profile() -> bytes:
    """Inks of which cyan alone prints a grey of half the lightness, and any other one black."""
    ramp = bytes(range(256))
    lightness = [(128 if corner == 0b1000 else 0 if corner else 255) for corner in range(16)]
    table = b"".join(bytes([value, 128, 128]) for value in lightness)
    body = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + table + ramp * 3
    return _icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": body})
