"""``pixelgan gallery``: what a model makes of images, category by category, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from pixelgan_lightning.evaluation.category_classes import CategoryClasses
from pixelgan_lightning.evaluation.metrics import UNKNOWN, category_margins
from pixelgan_lightning.pages import scatter
from pixelgan_lightning.pages.html import data_uri, page, png, section

SURE = 0.6
"""An image below this probability of its category is counted as one that the model is not sure of."""


@dataclass(frozen=True)
class Looked:
    """Images and what the model says about them, on the CPU.

    Attributes:
        images: ``[N, C, H, W]`` in [0, 1].
        logits: ``[N, K]``, unnormalised ``log q(y|x)``.
        names: of the images, file names where there are some.
        labels: ``[N]`` int64, -1 where unknown.
        samples: ``[K, S, C, H, W]`` in [0, 1], drawn from each category.
        classes: what the categories stand for, if that is known.
        class_names: of the labels.
    """

    images: Tensor
    logits: Tensor
    names: Sequence[str]
    labels: Tensor
    samples: Tensor
    classes: CategoryClasses | None = None
    class_names: Sequence[str] = ()

    def probabilities(self) -> Tensor:
        """``q(y|x)``, ``[N, K]`` float64."""
        return self.logits.double().softmax(1)


@dataclass(frozen=True)
class Chosen:
    """Rows of images to show.

    Attributes:
        typical: of each category its surest images, the surest first.
        unsure: of each category the images that it got by the smallest margin, the smallest first; none that is
            typical.
        first: of all categories together the images with the smallest margin.
        counts: how many images each category has.
    """

    typical: list[list[int]]
    unsure: list[list[int]]
    first: list[int]
    counts: list[int]


def choose(logits: Tensor, each: int, first: int) -> Chosen:
    """The images to show.

    The margin of an image in its category, ``log q(k|x) - log(1 - q(k|x))``, still ranks images of which the model is
    sure beyond the digits of a probability.

    Args:
        logits: ``[N, K]``.
        each: how many typical, and how many unsure, of each category.
        first: how many unsure of all together.
    """
    margin, category = category_margins(logits).max(1)
    order = margin.argsort(descending=True, stable=True).tolist()
    members: list[list[int]] = [[] for _ in range(logits.shape[1])]
    for row in order:
        members[int(category[row])].append(row)
    return Chosen(
        [rows[:each] for rows in members],
        [rows[each:][::-1][:each] for rows in members],
        order[::-1][:first],
        [len(rows) for rows in members],
    )


def gallery(looked: Looked, title: str, each: int = 8, first: int = 16) -> str:
    """The page, UTF-8 text.

    Args:
        looked: images and what the model says about them.
        title: of the page, the name of the run.
        each: images of each kind in a category.
        first: unsure images of all categories.
    """
    chosen = choose(looked.logits, each, first)
    used = [k for k, count in enumerate(chosen.counts) if count]
    order = sorted(used, key=lambda k: (scatter.natural(_class(looked, k)), -chosen.counts[k], k))
    number = len(looked.images)
    unsure = int((looked.probabilities().amax(1) < SURE).sum())
    head = (
        f"{number:,} images in {len(used)} of {looked.logits.shape[1]} categories; "
        f"of {unsure:,} the model is less than {_percent(SURE)} sure."
    )
    links = (f'<a href="#category-{k}">{escape(_called(looked, k))} · {chosen.counts[k]:,}</a>' for k in order)
    body = [
        f'<header><p class="eyebrow">{escape(title)}</p><h1>{escape(head)}</h1>'
        f'<nav class="contents">{"".join(links)}</nav></header>',
        section(
            "Look at these first",
            f'<div class="strip">{"".join(_between(looked, row) for row in chosen.first)}</div>',
            "The model is least sure of them: a label helps most here.",
        ),
        section("All images", _codes(looked, order), "Point at one to see it."),
        *(_category(looked, chosen, k) for k in order),
    ]
    empty = [k for k, count in enumerate(chosen.counts) if not count]
    if empty:
        body.append(f'<p class="note">Without an image: {escape(", ".join(f"k={k}" for k in empty))}.</p>')
    return page(f"{title}: gallery", "\n".join(filter(None, body)))


def _class(looked: Looked, k: int) -> str:
    return "" if looked.classes is None else looked.classes.name_of_category(k)


def _called(looked: Looked, k: int) -> str:
    """The class that a category stands for, and its number."""
    name = _class(looked, k)
    return f"{name} (k={k})" if name else f"k={k}"


def _category(looked: Looked, chosen: Chosen, k: int) -> str:
    number = len(looked.images)
    share = chosen.counts[k] / number
    name = _class(looked, k)
    heading = escape(f"{name} · k={k}" if name else f"Category {k}")
    samples = "".join(_figure(image, "") for image in looked.samples[k])
    typical = "".join(_figure(looked.images[row], looked.names[row], _label(looked, row)) for row in chosen.typical[k])
    unsure = "".join(_between(looked, row) for row in chosen.unsure[k])
    groups = [("Drawn by the model", samples), ("Most typical", typical), ("Least sure", unsure)]
    columns = "".join(
        f'<div><h3>{title}</h3><div class="strip">{images or "<p class=note>none</p>"}</div></div>'
        for title, images in groups
    )
    return (
        f'<section id="category-{k}"><div class="head"><h2>{heading}</h2>'
        f'<p class="note">{chosen.counts[k]:,} images, {100 * share:.1f} %</p></div>'
        f'<div class="share"><i style="width:{100 * share:.1f}%"></i></div>'
        f'<div class="groups">{columns}</div></section>'
    )


def _between(looked: Looked, row: int) -> str:
    """An image with the two categories it lies between."""
    values, categories = looked.logits[row].double().softmax(0).topk(min(2, looked.logits.shape[1]))
    names = [_called(looked, k) for k in categories.tolist()]
    words = "\n".join(f"{name} {_percent(float(value))}" for name, value in zip(names, values, strict=True))
    return _figure(looked.images[row], looked.names[row], words + _label(looked, row, "\n"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _label(looked: Looked, row: int, before: str = "") -> str:
    label = int(looked.labels[row])
    if label == UNKNOWN:
        return ""
    return f"{before}label {looked.class_names[label] if label < len(looked.class_names) else label}"


def _figure(image: Tensor, name: str, words: str = "") -> str:
    texts = (f"<b>{escape(name)}</b>" if name else "") + escape(words)
    caption = f"<figcaption>{texts}</figcaption>" if texts else ""
    return f'<figure><img src="{_source(image)}" alt="{escape(name or "drawn image")}">{caption}</figure>'


def _source(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    return data_uri(png(array))


def _codes(looked: Looked, order: Sequence[int]) -> str:
    q = looked.probabilities().numpy()
    step = max(1, -(-len(q) // scatter.MAX_POINTS))
    kept = list(range(0, len(q), step))
    around = [*order, *(k for k in range(q.shape[1]) if k not in order)]
    placed = scatter.layout(q[kept], q[kept], around)
    category = q.argmax(1)
    labels = [_label(looked, row).removeprefix("label ") for row in kept]
    groups = labels if any(labels) else [_class(looked, int(category[row])) or f"k={category[row]}" for row in kept]
    notes = [_note(looked, row, int(category[row]), float(q[row].max())) for row in kept]
    names = [_called(looked, k) for k in range(q.shape[1])]
    return scatter.draw(placed, groups, notes, names, [_source(looked.images[row]) for row in kept])


def _note(looked: Looked, row: int, category: int, probability: float) -> str:
    words = f"{looked.names[row]}\n{_called(looked, category)}, {100 * probability:.1f} %"
    return words + _label(looked, row, "\n")
