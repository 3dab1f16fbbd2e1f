"""The frame of a page, and the small parts that pages are made of."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelgan_lightning.whole_file import whole_file


@cache
def _part(name: str) -> str:
    return (files("pixelgan_lightning.pages") / name).read_text(encoding="utf-8")


def page(title: str, body: str) -> str:
    """A whole page, UTF-8 text, around ``body``, which is HTML already."""
    style, script = _part("style.css"), _part("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page; whoever watches ``path`` never sees half of one.

    Raises:
        RunError: the file cannot be written.
    """
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def section(title: str, content: str, note: str = "") -> str:
    """A heading, a line under it, and content that is HTML already; nothing where there is no content."""
    if not content:
        return ""
    quiet = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>{quiet}\n{content}\n</section>"


def folded(title: str, content: str) -> str:
    """Content, HTML already, that a click on ``title`` opens; nothing where there is no content."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>" if content else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """A table of texts that are HTML already; all columns but the first hold numbers, unless ``numbers`` is False."""
    kind = ' class="number"' if numbers else ""
    head = "".join(f'<th scope="col"{kind if i else ""}>{cell}</th>' for i, cell in enumerate(header))
    lines = []
    for first, *others in rows:
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td{kind}>{o}</td>" for o in others) + "</tr>")
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table>{thead}<tbody>{"".join(lines)}</tbody></table></div>'


def picture(path: Path, caption: str) -> str:
    """A picture file with a caption."""
    source, words = data_uri(path.read_bytes()), escape(caption)
    return f'<figure class="paper"><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def caption(path: Path) -> str:
    """What a picture of a run shows, by its name."""
    words = re.sub(r"-step0*(\d+)$", r" after \1 batches", path.stem).replace("_", " ")
    return words if words.startswith("test") else f"{words}, validation"


def data_uri(png: bytes) -> str:
    """A PNG file as a source of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png(pixels: np.ndarray) -> bytes:
    """``[H, W]`` or ``[H, W, 3]`` bytes as a PNG file, pixel by pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def data(content: Any) -> str:
    """Numbers and texts for the script of the page; numbers that are not finite become null."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    text = text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    return f'<script type="application/json">{text}</script>'


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, (list, tuple)) else content


def colour(number: int, total: int) -> str:
    """One of ``total`` colours that differ as much as they can, on light and on dark ground."""
    order = (number * 7) % total if total % 7 else number
    return f"oklch({(0.62, 0.72, 0.54)[number % 3]} 0.16 {(25 + 360 * order / max(total, 1)) % 360:.0f})"
