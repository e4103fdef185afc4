"""What the code of techniques may name: no backbone, and the core's public packages only."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcs_core.catalogue import catalogue

BACKBONES = {"mini", "sd", "sdxl", "tiny", "tiny-v", "tiny-sdxl", "tiny-sd3", "sd3", "flux"}
PUBLIC = {"pcs_core", "pcs_core.data", "pcs_core.backbone", "pcs_core.errors", "pcs_core.hookspecs"}
FRAMEWORKS = {"diffusers", "transformers", "pluggy", "pydantic.dataclasses"}


def sources() -> Iterator[Path]:
    """Return the modules of every distribution's package that holds techniques."""
    known = catalogue()
    packages = {known.where("techniques", i).split(".")[0] for i in known.ids("techniques")}
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        for root in spec.submodule_search_locations or ():
            # commands have a default backbone, as the core's own do
            yield from sorted(
                p for p in Path(root).rglob("*.py") if p.name not in ("plugin.py", "commands.py")
            )


FILES = list(sources())


def strings_of(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield string constants that are no docstrings."""
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_every_technique_is_looked_at() -> None:
    known = catalogue()
    modules = {known.where("techniques", i).split(":")[0] for i in known.ids("techniques")}
    seen = {".".join(p.with_suffix("").parts[-2:]) for p in FILES}
    assert {".".join(m.split(".")[-2:]) for m in modules} <= seen


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_no_backbone_is_named(path: Path) -> None:
    tree = ast.parse(path.read_text())
    named = [
        f"{path.name}:{n.lineno}: {n.value!r}" for n in strings_of(tree) if n.value in BACKBONES
    ]
    assert not named
    classes = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and "UNet" in n.id]
    assert not classes


def excepted(path: Path, name: str) -> bool:
    """Return whether the distribution's own pyproject lets this module import ``name``."""
    project = tomllib.loads((path.parent.parent / "pyproject.toml").read_text("utf-8"))
    allowed = project.get("tool", {}).get("pcs", {}).get("imports", {})
    module = f"{path.parent.name}.{path.stem}"
    return any(name.startswith(package) and module in by for package, by in allowed.items())


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_only_public_rooms_are_imported(path: Path) -> None:
    package = path.parent.name
    for name in imports_of(ast.parse(path.read_text())):
        top = name.split(".")[0]
        framework = name in FRAMEWORKS or top in FRAMEWORKS
        assert not framework or excepted(path, name), f"{path.name} imports {name}"
        if top == "pcs_core":
            assert name in PUBLIC or excepted(path, name), (
                f"{path.name} imports {name}: not a public package"
            )
        elif top.startswith("pcs_"):
            shared = (
                package,
                "pcs_folders",
            )  # a library beside the core, which holds no techniques
            assert top in shared, f"{path.name} imports another plugin: {name}"


def test_the_check_can_fail() -> None:
    tree = ast.parse('"sd"\nif run.backbone == "sd":\n    from pcs_engine import fit\n')
    assert [n.value for n in strings_of(tree)] == ["sd"]
    assert list(imports_of(tree)) == ["pcs_engine"]
