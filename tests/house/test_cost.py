"""A system is one file written by hand, and a technique touches nothing that another does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pcs_core.catalogue import catalogue

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from pages.cost import lines, pure, system_files, technique_files, tuning


@pytest.mark.parametrize("system", sorted(catalogue().recipe_files()))
def test_files_of_a_system(system: str) -> None:
    recipe, *more = system_files(system)
    assert (recipe.stem, recipe.suffix) == (system, ".toml")
    assert [p for p in more if not tuning(p) and p.parent.name != "pcs_checks"] == []


def test_a_pure_recipe_is_one_file() -> None:
    files = pure({id: list(system_files(id)) for id in catalogue().recipe_files()})
    assert len(files) >= 8
    assert {len(each) for each in files} == {1}


@pytest.mark.parametrize("technique", catalogue().ids("techniques"))
def test_a_technique_stands_in_no_table(technique: str) -> None:
    module, *_ = technique_files(technique)
    assert f'"{technique}"' not in (module.parent / "plugin.py").read_text("utf-8")


def test_lines_are_those_of_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""Words."""\n\n# more\nx = [\n    1,\n]\n')
    (tmp_path / "a.toml").write_text("# words\n\n[a]\nx = 1\n")
    assert (lines(tmp_path / "a.py"), lines(tmp_path / "a.toml")) == (3, 2)
