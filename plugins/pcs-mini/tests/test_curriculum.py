"""The stages of a young denoiser, few things seen often, then more, and the record of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcs_core.errors import InputError
from pcs_mini.training import latents
from pcs_mini.training.latents import render
from pcs_mini.world.assets import open_assets
from pcs_mini.world.curriculum import (
    CURRICULUM_STYLES,
    FEW,
    RECORD,
    curriculum_population,
    known_population,
    read_record,
    write_record,
)
from pcs_mini.world.population import core, is_held_out, open_population
from pcs_mini.world.scene import Scene, draw


def test_each_stage_is_a_larger_trained_part_of_the_world() -> None:
    assets = open_assets()
    population = open_population(assets)
    first, second, third = (
        curriculum_population(population, curriculum) for curriculum in (1, 2, 3)
    )
    assert curriculum_population(population, 0) is population
    assert 20 < len(first.members) <= FEW
    assert set(first.members) < set(second.members)
    assert set(second.members) < set(third.members)
    # a thing whose drawing in the first style is held out comes with the second stage
    assert {m.concept for m in first.members} <= {m.concept for m in second.members}
    assert len({m.concept for m in second.members} - {"person"}) <= FEW
    assert 100 < len(third.members) < len(population.members) / 4
    for member in third.members:
        assert not is_held_out(assets, member)
        if member.kind == "drawn":
            assert member.concept in core()
            assert member.style in CURRICULUM_STYLES
        else:
            assert member.kind == "person"


def test_a_stage_renders_scenes_of_its_own() -> None:
    assets = open_assets()
    first = render(assets, 0, 2, seed=5, curriculum=2)
    again = render(assets, 0, 2, seed=5, curriculum=2)
    other = render(assets, 0, 2, seed=5)
    assert (first[0] == again[0]).all()
    assert first[2] == again[2]
    assert not (first[0] == other[0]).all()


@pytest.mark.parametrize(("pairs", "counts"), [(0.0, {1}), (0.5, {1, 2}), (1.0, {2})])
def test_a_cache_shows_as_many_pairs_as_asked(
    monkeypatch: pytest.MonkeyPatch, pairs: float, counts: set[int]
) -> None:
    shown = []

    def drawn(*args: Any, **options: Any) -> Scene:
        scene = draw(*args, **options)
        shown.append(len(scene.figures))
        return scene

    monkeypatch.setattr(latents, "draw", drawn)
    render(open_assets(), 0, 12, seed=5, curriculum=2, pairs=pairs)
    assert set(shown) == counts


@pytest.mark.parametrize("curriculum", [0, 1, 2, 3])
def test_the_record_gives_the_population_of_a_stage_back(tmp_path: Path, curriculum: int) -> None:
    assets = open_assets()
    write_record(tmp_path, assets, curriculum)
    assert read_record(tmp_path)["stage"] == curriculum
    expected = curriculum_population(open_population(assets), curriculum)
    assert known_population(tmp_path, assets).members == expected.members


def test_without_a_record_the_whole_world_is_known(tmp_path: Path) -> None:
    assets = open_assets()
    assert known_population(tmp_path, assets).members == open_population(assets).members


@pytest.mark.parametrize("text", ["{", '{"stage": 1}'])
def test_a_broken_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match=r"curriculum\.json.*assemble --curriculum"):
        read_record(tmp_path)


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    older = {"lesson": 1, "title": "x", "concepts": ["dog"], "styles": ["flat"], "people": []}
    (tmp_path / "lesson.json").write_text(json.dumps(older))
    record = read_record(tmp_path)
    assert record["stage"] == 1
    assert record["concepts"] == ["dog"]
