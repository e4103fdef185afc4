"""What the coverage page says of the design is true of the code."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from pcs_recipes.catalogue import SeamFacts, impossible, seams, systems


@pytest.mark.parametrize("seam", [s for s in seams() if s.code], ids=lambda s: s.id)
def test_a_built_seam_is_in_the_code(seam: SeamFacts) -> None:
    module, _, path = seam.code.partition(":")
    assert path
    reduce(getattr, path.split("."), importlib.import_module(module))


def test_every_system_named_is_catalogued() -> None:
    known = {s.id for s in systems()}
    named = {id for seam in seams() for id in seam.systems} | set(impossible())
    assert named <= known
    assert len({s.id for s in seams()}) == len(seams())
