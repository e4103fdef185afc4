"""What the coverage page says of the design is true of the code."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from pcs_core.catalogue import catalogue
from pcs_recipes.catalogue import SeamFacts, seams


@pytest.mark.parametrize("seam", [s for s in seams() if s.code], ids=lambda s: s.id)
def test_a_built_seam_is_in_the_code(seam: SeamFacts) -> None:
    module, _, path = seam.code.partition(":")
    assert path
    reduce(getattr, path.split("."), importlib.import_module(module))


def test_what_systems_need_is_described() -> None:
    described = {seam.id for seam in seams()}
    needed = {need for head in catalogue().heads().values() for need in head.table.get("needs", ())}
    assert needed <= described
    assert described - needed == set()
