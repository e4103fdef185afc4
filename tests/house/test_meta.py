"""One distribution brings everything of this repository, and no list says what that is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
META = ROOT / "plugins" / "pcs-all"
FOLDERS = {
    path.parent.name: path.parent
    for path in (*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("optimizers/*/pyproject.toml"))
    if path.parent != META
} | {"pcs-core": ROOT}


@pytest.fixture(scope="module")
def siblings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("siblings", META / "siblings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_is_required_from_the_checkout(siblings: ModuleType) -> None:
    """By folder: a name that is not owned on an index is not looked up there."""
    lines = siblings.requirements(META, release=False)
    assert lines == sorted(f"{name} @ {folder.as_uri()}" for name, folder in FOLDERS.items())


def test_a_release_requires_versions(siblings: ModuleType) -> None:
    lines = siblings.requirements(META, release=True)
    assert {line.partition("==")[0] for line in lines} == set(FOLDERS)
    assert all(line.endswith("==0.1.0") for line in lines)


def test_an_sdist_keeps_what_it_required(siblings: ModuleType, tmp_path: Path) -> None:
    text = "Metadata-Version: 2.4\nName: pcs-all\nRequires-Dist: pcs-core==0.1.0\n\nwords\n"
    folder = tmp_path / "a" / "pcs-all"
    folder.mkdir(parents=True)
    (folder / "PKG-INFO").write_text(text, "utf-8")
    assert siblings.requirements(folder, release=False) == ["pcs-core==0.1.0"]
