"""How the files hang together: imports make no circle and lead to lower floors, and few private names of other
packages are used."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import pytorch_lightning as pl

ROOT = Path(__file__).parents[1]
FOLDERS = {"pixelgan_lightning": "", "callbacks": "pixelgan_lightning.", "datamodules": "pixelgan_lightning."}
FLOORS: dict[str, tuple[str, str]] = {  # floor: its folders and files, and the floors that they may import
    "basics": ("component contracts errors messages numerics plain_files random trust version whole_file", ""),
    "parts": ("augmentations decoders discriminators encoders likelihoods posteriors priors", "basics"),
    "data": ("datamodules", "basics parts"),
    "autoencoder": ("autoencoder", "basics parts"),
    "evaluation": ("evaluation", "basics parts"),
    "phases": ("phases", "basics parts autoencoder"),
    "training": ("training", "basics autoencoder phases"),
    "files": ("files pretrained", "basics autoencoder evaluation"),
    "model": ("model", "basics parts autoencoder phases training files"),  # files: only to be loaded from them
    "pages": ("pages", "basics evaluation"),
    "callbacks": ("callbacks", "basics parts evaluation training files"),
    "bolts": ("bolts", "basics data phases"),
    "configuration": ("configuration", "basics parts data phases training files model callbacks"),
    "commands": ("commands", "basics parts data evaluation training files model pages callbacks configuration"),
    "command line": ("cli __main__", "basics training files commands configuration"),
}
"""From the ground up: a floor may import those below that it names. Whatever the package gathers at its front, outside
code alone takes from there."""
THEIRS = (pl.Callback, pl.LightningModule, pl.LightningDataModule)
"""Classes of Lightning that ours extend: a private name of theirs is borrowed also where one of ours overrides it."""
BORROWED = {
    "pixelgan_lightning/bolts.py: _get_closed_form_lr": "the rate of a schedule of pl_bolts at a step; its public "
    "way steps through all before",
    "pixelgan_lightning/decoders/cpu_layer.py: _C": "with the next: whether a transform of functions is at work, which "
    "has to see PyTorch's own operations; tests/test_decoders.py",
    "pixelgan_lightning/decoders/cpu_layer.py: _are_functorch_transforms_active": "see above",
}
"""Private names of other packages that are used, why, and which tests fail when they change; at most 8."""


def modules(root: Path, folders: Mapping[str, str] = FOLDERS) -> dict[str, Path]:
    """All modules of the package, by the name that they are imported by."""
    found = {}
    for folder, prefix in folders.items():
        for path in (root / folder).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[prefix + name.removesuffix(".__init__")] = path
    return found


def imports(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which modules each imports, also inside functions and for types only.

    A name that a package gathers counts as an import of the module that it comes from, so a package and its modules
    make no circle by themselves.
    """
    trees = {name: ast.parse(path.read_text()) for name, path in known.items()}
    origin: dict[str, str] = {}  # of names that a package gathers from its modules
    for name, path in known.items():
        for node in ast.walk(trees[name]) if path.name == "__init__.py" else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{name}."):
                origin |= {f"{name}.{alias.name}": str(node.module) for alias in node.names}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted: set[str] = set()
        for node in ast.walk(trees[name]):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for full in (f"{node.module}.{alias.name}" for alias in node.names):
                    wanted.add(full if full in known else origin.get(full, node.module))
        gathers = path.name == "__init__.py" and name != "pixelgan_lightning"
        graph[name] = {o for o in wanted & known.keys() if o != name and not (gathers and o.startswith(f"{name}."))}
    return graph


def test_imports_make_no_circle() -> None:
    graph = imports(modules(ROOT))
    assert sum(map(len, graph.values())) > 200  # it has seen the imports
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def floors_of(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Which floors each imports, itself left out.

    Raises:
        KeyError: a folder or file that :data:`FLOORS` does not name.
    """
    floor = {room: name for name, (rooms, _) in FLOORS.items() for room in rooms.split()}
    found: dict[str, set[str]] = {name: set() for name in FLOORS}
    for module, imported in graph.items():
        if module != "pixelgan_lightning":  # the front of the package
            here = floor[module.split(".")[1]]
            found[here] |= {floor[(f"{other}.__init__").split(".")[1]] for other in imported} - {here}
    return found


def test_imports_lead_to_lower_floors() -> None:
    below: set[str] = set()
    found = floors_of(imports(modules(ROOT)))
    for name, (_, allowed) in FLOORS.items():
        assert set(allowed.split()) <= below, f"{name} may import what is not below it"
        assert found[name] == set(allowed.split()), f"what {name} imports is not what FLOORS says"
        below.add(name)


def test_the_picture_of_the_floors_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    picture = importlib.import_module("draw_floors")
    now = picture.arrows(floors_of(imports(modules(ROOT))))
    assert picture.drawn_arrows() == now, "`.venv/bin/python docs/draw_floors.py` draws it anew"
    picture.draw(now)


def test_an_import_of_a_higher_floor_is_found() -> None:
    graph = {"pixelgan_lightning.priors.base": {"pixelgan_lightning.model", "pixelgan_lightning.priors.gaussian"}}
    assert floors_of(graph)["parts"] == {"model"}
    with pytest.raises(KeyError):
        floors_of({"pixelgan_lightning.cellar": set()})


@pytest.mark.parametrize(
    "back",
    ["from own.one import a", "def f():\n    from own.one import a", "from own import a", "import own.one"],
    ids=["at the top", "in a function", "through the package", "whole"],
)
def test_a_circle_is_found(back: str, tmp_path: Path) -> None:
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").write_text("from own.one import a\n")
    (package / "one.py").write_text("from own.two import b\na = b\n")
    (package / "two.py").write_text("b = 1\n")
    TopologicalSorter(imports(modules(tmp_path, {"own": ""}))).prepare()
    (package / "two.py").write_text(f"{back}\nb = 1\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(modules(tmp_path, {"own": ""}))).prepare()


def private_names(known: Mapping[str, Path]) -> set[str]:
    """Private names that the modules use and do not define, and those of Lightning that they override."""
    trees = {path: ast.parse(path.read_text()) for path in known.values()}
    own: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    theirs = {name for cls in THEIRS for name in dir(cls)}
    found = set()
    for path, tree in trees.items():
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        overridden = {m.name for c in classes for m in c.body if isinstance(m, ast.FunctionDef)} & theirs
        private = {n for n in names - own | overridden | names & theirs if n.startswith("_") and not n.endswith("__")}
        found |= {f"{path.relative_to(ROOT)}: {name}" for name in private}
    return found


def test_private_names_of_other_packages_are_few_and_known() -> None:
    assert private_names(modules(ROOT)) == BORROWED.keys()
    assert len(BORROWED) <= 8
