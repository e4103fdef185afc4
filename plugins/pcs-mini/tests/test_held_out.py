"""Benchmark subjects: held out, the same at every drawing, with their truth."""

from __future__ import annotations

import pytest
import torch

from pcs_mini.held_out import Studio
from pcs_mini.world.assets import AssetsError


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def test_references_are_one_thing_at_several_places(studio: Studio) -> None:
    name = studio.names("drawn")[0]
    one, other = studio.references(name, 3), Studio().references(name, 3)
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, other, strict=True))
    assert len({p.place for p in one}) == 3
    assert all(p.masks[0].shape == (1, 128, 128) and p.masks[0].max() > 0.9 for p in one)


def test_trained_and_held_out_members_are_apart(studio: Studio) -> None:
    held_out, trained = set(studio.names()), set(studio.names(trained=True))
    assert held_out
    assert trained
    assert not held_out & trained


def test_a_member_that_is_not_there_is_named(studio: Studio) -> None:
    with pytest.raises(AssetsError, match="no 'dgo/outlined'"):
        studio.picture(["dgo/outlined"], seed=0)
