"""The first lessons of a young denoiser: few things, seen often."""

from __future__ import annotations

from pcs_mini.training.latents import FIRST_STYLES, first_lessons, render
from pcs_mini.world.assets import open_assets
from pcs_mini.world.cast import core, is_held_out, open_cast


def test_they_are_a_small_trained_part_of_the_world() -> None:
    assets = open_assets()
    cast = open_cast(assets)
    few = first_lessons(cast)
    assert 100 < len(few.members) < len(cast.members) / 4
    for member in few.members:
        assert not is_held_out(assets, member)
        if member.kind == "drawn":
            assert member.concept in core()
            assert member.style in FIRST_STYLES
        else:
            assert member.kind == "person"


def test_they_render_as_scenes_of_their_own() -> None:
    assets = open_assets()
    first = render(assets, 0, 2, seed=5, focus=True)
    again = render(assets, 0, 2, seed=5, focus=True)
    other = render(assets, 0, 2, seed=5)
    assert (first[0] == again[0]).all()
    assert first[2] == again[2]
    assert not (first[0] == other[0]).all()
