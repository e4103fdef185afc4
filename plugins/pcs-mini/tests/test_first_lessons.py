"""The lessons of a young denoiser: few things seen often, then more."""

from __future__ import annotations

from pcs_mini.training.latents import FEW, LESSON_STYLES, lesson_cast, render
from pcs_mini.world.assets import open_assets
from pcs_mini.world.cast import core, is_held_out, open_cast


def test_each_lesson_is_a_larger_trained_part_of_the_world() -> None:
    assets = open_assets()
    cast = open_cast(assets)
    first, second, third = (lesson_cast(cast, lesson) for lesson in (1, 2, 3))
    assert lesson_cast(cast, 0) is cast
    assert 20 < len(first.members) <= FEW
    assert set(first.members) < set(second.members)
    assert set(second.members) < set(third.members)
    assert {m.concept for m in first.members} | {"person"} == {m.concept for m in second.members}
    assert 100 < len(third.members) < len(cast.members) / 4
    for member in third.members:
        assert not is_held_out(assets, member)
        if member.kind == "drawn":
            assert member.concept in core()
            assert member.style in LESSON_STYLES
        else:
            assert member.kind == "person"


def test_a_lesson_renders_scenes_of_its_own() -> None:
    assets = open_assets()
    first = render(assets, 0, 2, seed=5, lesson=2)
    again = render(assets, 0, 2, seed=5, lesson=2)
    other = render(assets, 0, 2, seed=5)
    assert (first[0] == again[0]).all()
    assert first[2] == again[2]
    assert not (first[0] == other[0]).all()
