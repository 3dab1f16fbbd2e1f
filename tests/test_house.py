"""How the files hang together: imports make no circle, and few private names of other packages are used."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"pixelgan_lightning": "", "callbacks": "pixelgan_lightning.", "datamodules": "pixelgan_lightning."}
PRIVATE = re.compile(
    r"\b(?:trainer|loop|callback|strategy|optimizer|logger|parser|jsonargparse|wandb|pl)\w*(?:\.\w+)*\._[a-z]\w*"
)
MOST = 8


def modules() -> dict[str, Path]:
    """All modules of the package, by the name that they are imported by."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[prefix + name.removesuffix(".__init__")] = path
    return found


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each imports, also inside functions and for types only.

    A package does not count as an importer of what it gathers from its own modules.
    """
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                wanted |= submodules or {node.module}
        gathered = path.name == "__init__.py"
        graph[name] = {
            other
            for other in wanted & known.keys()
            if other != name and not name.startswith(f"{other}.") and not (gathered and other.startswith(f"{name}."))
        }
    return graph


def test_imports_make_no_circle() -> None:
    graph = imports(modules())
    assert sum(map(len, graph.values())) > 200  # it has seen the imports
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_few_private_names_of_other_packages_are_used() -> None:
    used = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in modules().values()
        for line in path.read_text().splitlines()
        if not line.strip().startswith("#")
        for found in PRIVATE.finditer(line)
    ]
    assert len(used) <= MOST, "\n".join(used)
