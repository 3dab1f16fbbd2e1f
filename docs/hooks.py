"""What mkdocs does not do by itself.

Cross-references that docstrings write as Sphinx roles, ``:class:`~a.b.C```, become links named ``C``. RESULTS.md, which
lies beside this folder, becomes the page results.md, and links to it lead there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs for every page; the links are resolved by mkdocs-autorefs, where they lead anywhere."""

    def link(match: re.Match[str]) -> str:
        name = match[2].rpartition(".")[2] if match[1] else match[2]
        return f'<autoref identifier="{match[2]}" optional><code>{name}</code></autoref>'

    return ROLE.sub(link, html)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs once: adds the page of results."""
    files.append(File.generated(config, "results.md", content=RESULTS.read_text().replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page: in the repository RESULTS.md lies one folder further up."""
    return re.sub(r"\]\(\.\./((?:\.\./)*)RESULTS\.md", r"](\1results.md", markdown)
