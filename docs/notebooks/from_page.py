"""Writes your_images.ipynb from the page docs/your_images.md, so that nothing is said twice.

    python docs/notebooks/from_page.py

Texts stay texts, ``python`` and ``sh`` blocks become cells. A comment ``<!-- notebook ... -->`` of the page is a cell
of the notebook alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

PAGE = Path(__file__).parents[1] / "your_images.md"
NOTEBOOK = Path(__file__).with_name("your_images.ipynb")
BLOCK = re.compile(r"^(?:```(python|sh)\n(.*?)^```|<!-- (notebook)\n(.*?)^-->)$", re.MULTILINE | re.DOTALL)
SHELL = "%%script env TERM=dumb sh -e"
"""No moving progress bars, which a notebook keeps frame by frame; the cell ends with the first command that fails."""


def notebook(page: str) -> nbformat.NotebookNode:
    """The notebook of a page; links lead one folder up."""
    page = re.sub(r"\]\((?!\w+:)", "](../", page)
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"display_name": "Python 3", "name": "python3"}})
    end = 0

    def add(kind: str, text: str) -> None:
        if text := text.strip():
            cell = getattr(nbformat.v4, f"new_{kind}_cell")(text)
            cell.id = f"cell-{len(made.cells):02d}"
            made.cells.append(cell)

    for block in BLOCK.finditer(page):
        add("markdown", page[end : block.start()])
        add("code", f"{SHELL}\n{block[2]}" if block[1] == "sh" else block[2] or block[4])
        end = block.end()
    add("markdown", page[end:])
    nbformat.validate(made)
    return made


if __name__ == "__main__":
    NOTEBOOK.write_text(nbformat.writes(notebook(PAGE.read_text())) + "\n")
