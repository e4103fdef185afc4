"""The table of systems and families says what recipes say, and was made anew for each of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pcs_core import load_recipe, open_backbone
from pcs_core.catalogue import catalogue

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from families import FAMILIES
from pages.matrix import recorded


@pytest.fixture(scope="module")
def families() -> dict[str, str]:
    """Return a family's id by its heading."""
    return {heading: open_backbone(id).card.family for heading, id in FAMILIES.items()}


@pytest.mark.parametrize("system", sorted(catalogue().recipe_files()))
def test_it_runs_where_its_recipe_says_so_and_is_refused_elsewhere(
    system: str, families: dict[str, str]
) -> None:
    declared = load_recipe(system).backbones
    table = recorded()
    assert set(table) == set(families)
    for heading, family in families.items():
        said = table[heading].get(system, "not tried: python scripts/families.py " + system)
        assert (said == "") == (family in declared), f"{heading}: {said or 'runs'}"
