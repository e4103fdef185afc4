"""The facts about systems and techniques agree with each other and keep to their forms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from pcs_recipes.catalogue import (
    FRAMEWORKS,
    HOOKS,
    SCOPES,
    SystemFacts,
    TechniqueFacts,
    systems,
    techniques,
)

ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
CODE = re.compile(r"[a-z][a-z_]*\.[a-z][a-z_]*")
BACKBONES = frozenset(
    {
        "AnimateDiff",
        "CogVideoX",
        "FLUX",
        "FLUX.1-dev",
        "Imagen",
        "Kandinsky 2.2",
        "LDM",
        "ModelScope",
        "Muse",
        "SD",
        "SD 1.4",
        "SD 1.5",
        "SD 2.0",
        "SD 2.1",
        "SD 3.5",
        "SDXL",
        "Show-1",
        "StyleGAN",
        "VDM",
        "VidRD",
        "ZeroScope",
    }
)
WITHOUT_BACKBONE = frozenset({"lora-dreambooth", "emu3", "gemini-2-flash-editing"})
WITHOUT_CODE = frozenset({"gradient-free-search"})
"""An optimizer and a recipe's phases: nothing that a recipe names as a technique."""


def test_every_surveyed_system_is_there_once() -> None:
    entries = systems()
    assert len(entries) == 180
    assert _repeated(entry.id for entry in entries) == []
    assert _repeated(entry.ref for entry in entries) == []
    assert _repeated(entry.name for entry in entries) == []
    assert _repeated(entry.paper for entry in entries if entry.paper) == []
    assert _repeated(entry.summary for entry in entries) == []


def test_every_technique_is_there_once() -> None:
    entries = techniques()
    assert len(entries) == 74
    assert _repeated(entry.id for entry in entries) == []
    assert _repeated(entry.summary for entry in entries) == []


def test_systems_and_techniques_know_each_other() -> None:
    known = {entry.id for entry in techniques()}
    used = {technique for entry in systems() for technique in entry.techniques}
    assert used - known == set()
    assert known - used == set()


@pytest.mark.parametrize("entry", systems(), ids=lambda entry: entry.id)
def test_a_system_keeps_to_the_forms(entry: SystemFacts) -> None:
    assert ID.fullmatch(entry.id)
    assert entry.name
    assert entry.ref.isdecimal()
    assert 2021 <= entry.year <= 2025
    assert entry.framework in FRAMEWORKS
    assert _are_some_of(entry.scope, SCOPES)
    assert entry.techniques
    assert len(set(entry.techniques)) == len(entry.techniques)
    assert set(entry.backbones) <= BACKBONES
    assert bool(entry.backbones) is (entry.id not in WITHOUT_BACKBONE)
    assert entry.title
    assert re.fullmatch(r"(arXiv:\d{4}\.\d{4,5})?", entry.paper)
    assert _is_sentence(entry.summary, 160)
    assert not entry.note or _is_sentence(entry.note, 160)


@pytest.mark.parametrize("entry", techniques(), ids=lambda entry: entry.id)
def test_a_technique_keeps_to_the_forms(entry: TechniqueFacts) -> None:
    assert ID.fullmatch(entry.id)
    assert _are_some_of(entry.hooks, HOOKS)
    assert all(CODE.fullmatch(code) for code in entry.codes)
    assert len(set(entry.codes)) == len(entry.codes)
    assert bool(entry.codes) is (entry.id not in WITHOUT_CODE)
    assert _is_sentence(entry.summary, 140)


@pytest.mark.parametrize("entry", techniques(), ids=lambda entry: entry.id)
def test_the_distribution_is_the_room_of_the_first_code(entry: TechniqueFacts) -> None:
    assert entry.distribution.startswith("pcs-")
    if entry.codes:
        room = entry.codes[0].partition(".")[0]
        assert entry.distribution == "pcs-" + room.replace("_", "-")


def test_a_paper_is_not_younger_than_its_system() -> None:
    late = [e.id for e in systems() if e.paper and int("20" + e.paper[6:8]) > e.year]
    assert late == []


def test_facts_are_read_once_and_cannot_be_changed() -> None:
    assert systems() is systems()
    assert techniques() is techniques()
    with pytest.raises(AttributeError):
        systems()[0].year = 1999  # type: ignore[misc]


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _are_some_of(values: tuple[str, ...], allowed: tuple[str, ...]) -> bool:
    return bool(values) and set(values) <= set(allowed) and len(set(values)) == len(values)


def _is_sentence(text: str, longest: int) -> bool:
    return text[:1].isupper() and text.endswith(".") and "\n" not in text and len(text) <= longest
