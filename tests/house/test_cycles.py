"""No file of the engine needs, directly or through others, one that needs it: imports in functions too."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Imports(ast.NodeVisitor):
    """The modules a file imports when it runs, wherever in it; not those for type checkers alone."""

    def __init__(self, known: set[str]) -> None:
        self.known, self.names = known, set[str]()

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names |= {a.name for a in node.names} & self.known

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parts = {f"{node.module}.{a.name}" for a in node.names} & self.known
        self.names |= parts or {str(node.module)} & self.known


def imports_in(folder: Path, root: Path) -> dict[str, set[str]]:
    """Return module -> modules of the same folder that it imports; the folder itself is one of them."""
    package = ".".join(folder.relative_to(root).parts)
    files = {f"{package}.{p.stem}".removesuffix(".__init__"): p for p in folder.glob("*.py")}
    graph = {}
    for name, file in files.items():
        visitor = Imports(set(files))
        visitor.visit(ast.parse(file.read_text("utf-8")))
        graph[name] = visitor.names
    return graph


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Return modules of which each imports the next and the last the first, or nothing."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for following in sorted(graph[name]):
            if cycle := search(following, [*path, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := search(name, []))), [])


def test_the_engine_has_no_circle_of_files() -> None:
    graph = imports_in(ROOT / "pcs_engine", ROOT)
    assert len(graph) > 20
    assert not cycle_in(graph)


@pytest.mark.parametrize(
    "late", ["def f():\n    from pcs_x.eng import a", "def f():\n    import pcs_x.eng.a"]
)
def test_an_import_in_a_function_closes_a_circle(tmp_path: Path, late: str) -> None:
    folder = tmp_path / "pcs_x" / "eng"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "a.py").write_text("from pcs_x.eng.b import y\n")
    (folder / "b.py").write_text("from typing import TYPE_CHECKING\n")
    assert not cycle_in(imports_in(folder, tmp_path))
    (folder / "b.py").write_text(late)
    assert cycle_in(imports_in(folder, tmp_path)) == ["pcs_x.eng.a", "pcs_x.eng.b"]
    (folder / "b.py").write_text("if TYPE_CHECKING:\n    from pcs_x.eng.a import x\n")
    assert not cycle_in(imports_in(folder, tmp_path))
