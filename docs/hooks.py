"""Cross-references that docstrings write as Sphinx roles, ``:class:`~a.b.C```, become links named ``C``."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs for every page; the links are resolved by mkdocs-autorefs, where they lead anywhere."""

    def link(match: re.Match[str]) -> str:
        name = match[2].rpartition(".")[2] if match[1] else match[2]
        return f'<autoref identifier="{match[2]}" optional><code>{name}</code></autoref>'

    return ROLE.sub(link, html)
