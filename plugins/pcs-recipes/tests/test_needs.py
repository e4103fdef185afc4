"""What the coverage page says of the design is true of the code."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from pcs_core.catalogue import catalogue
from pcs_recipes.catalogue import NeedFacts, needs


@pytest.mark.parametrize("need", [s for s in needs() if s.code], ids=lambda s: s.id)
def test_a_built_need_is_in_the_code(need: NeedFacts) -> None:
    module, _, path = need.code.partition(":")
    assert path
    reduce(getattr, path.split("."), importlib.import_module(module))


def test_what_systems_need_is_described() -> None:
    described = {need.id for need in needs()}
    needed = {need for head in catalogue().heads().values() for need in head.table.get("needs", ())}
    assert needed <= described
    assert described - needed == set()
