"""``pixelgan report``: what a run has written, or several runs beside each other, as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pixelgan_lightning.pages import scatter
from pixelgan_lightning.pages.comparison import comparison, missing
from pixelgan_lightning.pages.curves import draw, panels
from pixelgan_lightning.pages.html import caption, folded, page, picture, section, table, write_page
from pixelgan_lightning.pages.quantities import GROUPS, quantity, sentence, shown, written
from pixelgan_lightning.pages.run import Predicted, Run, read_run

TILES = ("accuracy", "cluster_accuracy", "bits_per_dim", "bits_per_dim_upper", "nmi", "code_entropy", "reconstruction")


def write_report(folders: Sequence[Path], out: Path) -> list[str]:
    """Write the page of a run, or of several, to ``out``.

    Returns:
        In words, what of the runs is not there.

    Raises:
        ConfigurationError: a folder holds no run.
        RunError: ``out`` cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    write_page(out, report(runs[0]) if len(runs) == 1 else comparison(runs))
    if len(runs) == 1:
        return runs[0].missing
    return missing(runs)


# -------------------------------------------------------------------------------------------------------------- one run


def report(run: Run) -> str:
    """The page of one run, UTF-8 text."""
    numbers, of = run.numbers
    title = sentence(numbers, of) or (f"{run.batches:,} batches trained" if run.batches else "A run")
    if not run.results and numbers:
        title += ", in validation"
    body = [
        f'<header><p class="eyebrow">{escape(run.name)}</p><h1>{escape(title)}.</h1>'
        f'<p class="meta">{escape(run.summary)}</p>'
        + "".join(f'<p class="missing">{escape(words)}</p>' for words in run.missing)
        + f"</header>{_tiles(numbers)}",
        _pair(_samples(run), _stack(_confusion(run), _codes(run))),
        section(
            "Curves",
            f'<div class="curves">{_curves(run)}</div>' if run.series else "",
            "Over the training batches. Point at a curve for its numbers.",
        ),
        section("All numbers of the test", _table(run.results)) if run.results else "",
        folded("More pictures", _others(run)),
        folded("Configuration", f"<pre>{escape(run.config)}</pre>" if run.config else ""),
    ]
    return page(f"{run.name}: {title}", "\n".join(filter(None, body)))


def _tiles(numbers: dict[str, float]) -> str:
    names = [name for name in TILES if name in numbers and not (name == "cluster_accuracy" and "accuracy" in numbers)]
    tiles = []
    for name in names[:5]:
        value, _, error = written(name, numbers).partition(" ± ")
        below = f"<small>± {escape(error)}, standard error</small>" if error else ""
        words = quantity(name).words.partition(";")[0]
        tiles.append(f'<div class="tile"><b>{escape(value)}</b><span>{escape(words)}</span>{below}</div>')
    return f'<div class="tiles">{"".join(tiles)}</div>' if len(tiles) > 1 else ""  # the heading has one alone


def _samples(run: Run) -> str:
    path = run.picture("samples", "manifold")
    again = "along the row the decoder draws again"
    if "categories_used" in run.numbers[0] or (run.predicted and run.predicted.probabilities is not None):
        note = f"A row for each category; {again}. In front: the class where it is known, and the category."
    else:
        note = f"A row for each code; {again}."
    drawn = "" if path is None else f'<div class="samples">{picture(path, caption(path))}</div>'
    return section("Samples", drawn, note if path and "samples" in path.name else "")


def _stack(*sections: str) -> str:
    found = "".join(sections)
    return f'<div class="stack">{found}</div>' if found else ""


def _pair(*sections: str) -> str:
    found = [part for part in sections if part]
    return f'<div class="pair">{"".join(found)}</div>' if found else ""


def _curves(run: Run) -> str:
    drawn = []
    for panel in panels(list(run.series)):
        series = {name: run.series[name] for name in panel.names if name in run.series}
        drawn.append(draw(panel, {name.partition("/")[2] or name: values for name, values in series.items()}))
    return "".join(drawn)


def _table(results: dict[str, float]) -> str:
    parts = []
    for group in GROUPS:
        rows = [
            (f"{escape(quantity(name).words)}<small>{escape(name)}</small>", escape(written(name, results)))
            for name in shown(results)
            if quantity(name).group == group
        ]
        if rows:
            parts.append(f"<div><h3>{escape(group)}</h3>{table((), rows)}</div>")
    return f'<div class="pair">{"".join(parts)}</div>'


def _others(run: Run) -> str:
    """All pictures that are not shown above, those of the test first."""
    above = {run.picture("samples", "manifold"), run.picture("confusion")}
    if _labelled(run.predicted):  # counted anew
        above |= {run.pictures.get("confusion"), run.pictures.get("test_confusion")}
    paths = sorted(set(run.pictures.values()) - above, key=lambda path: (not path.name.startswith("test_"), path.name))
    return f'<div class="samples">{"".join(picture(p, caption(p)) for p in paths)}</div>' if paths else ""


# ---------------------------------------------------------------------------------------------------- classes and codes


def _labelled(predicted: Predicted | None) -> list[tuple[str, str]]:
    """Label and predicted class of the images that have both."""
    rows = predicted.rows if predicted else []
    return [(row["label"], row["class"]) for row in rows if row.get("class") and row["label"]]


def _confusion(run: Run) -> str:
    """Images by label and class: counted in the table of predictions, or else the picture that a test has drawn."""
    pairs = _labelled(run.predicted)
    if not pairs or run.predicted is None:
        path = run.picture("confusion")
        return section("Confusion", picture(path, caption(path))) if path else ""
    counts = Counter(pairs)
    names = sorted({name for pair in pairs for name in pair}, key=scatter.natural)
    totals = Counter(label for label, _ in pairs)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for label in names:
        cells = []
        for name in names:
            share = 100 * counts[label, name] / max(totals[label], 1)
            kind = " high" if share > 55 else "" if counts[label, name] else " none"
            cells.append(f'<td class="cell{kind}" style="--share:{share:.0f}">{counts[label, name]}</td>')
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    right = sum(label == name for label, name in pairs)
    note = (
        f"Rows: label; columns: predicted class. {right:,} of {len(pairs):,} {run.predicted.split} images are on the "
        "diagonal."
    )
    counted = run.results.get("accuracy", run.results.get("cluster_accuracy", right / len(pairs)))
    if run.predicted.split == "test" and abs(right / len(pairs) - counted) > 1e-3:
        note += " Here the last validation of the run says what the categories stand for; a test finds that out anew."
    matrix = (
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return section("Confusion", matrix, note)


def _codes(run: Run) -> str:
    found = run.predicted
    if found is None or not found.rows or not found.code.shape[1]:
        return ""
    of_category: dict[int, str] = {}
    for row in found.rows:
        if row.get("category"):
            of_category[int(row["category"])] = row.get("class") or ""
    order, names = None, []
    if found.probabilities is not None:
        number = found.probabilities.shape[1]
        order = sorted(range(number), key=lambda k: (scatter.natural(of_category.get(k, "")), k))
        names = [f"k={k}" + (f" · {of_category[k]}" if of_category.get(k) else "") for k in range(number)]
    placed = scatter.layout(found.code, found.probabilities, order)
    groups = [row["label"] for row in found.rows]
    if not any(groups):
        groups = [row.get("class") or row.get("category") or "" for row in found.rows]
    drawn = scatter.draw(placed, groups, [_note(row) for row in found.rows], names)
    note = "Coloured by label. Point at one; click a name to see it alone."
    return section(f"Codes of the {found.split} images", drawn, note)


def _note(row: dict[str, str]) -> str:
    words = [row.get("file") or f"row {row['row']}"]
    if row.get("class"):
        words.append(f"class {row['class']}, {_percent(row['class_probability'])}")
    if row.get("category"):
        words.append(f"category {row['category']}, {_percent(row['category_probability'])}")
    words.append(f"label {row['label']}" if row["label"] else "no label")
    return "\n".join(words)


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f} %"
