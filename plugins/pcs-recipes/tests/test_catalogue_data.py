"""The facts about systems and techniques agree with each other and keep to their forms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from pcs_core.assembly.schema import FACTS, RecipeTable
from pcs_core.catalogue import catalogue
from pcs_recipes.catalogue import HOOKS, TechniqueFacts, techniques

SURVEYED = {
    id: RecipeTable(**head.table)
    for id, head in catalogue().heads().items()
    if "survey" in head.table
}
FOLDER = {id: file.parent.name for id, file in catalogue().system_files().items()}

ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
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


def test_every_surveyed_system_is_there_once() -> None:
    entries = SURVEYED.values()
    assert len(entries) == 180
    assert all(entry.id == id for id, entry in SURVEYED.items())
    assert _repeated(str(entry.survey) for entry in entries) == []
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
    used = {technique for entry in SURVEYED.values() for technique in entry.techniques}
    assert used - known == set()
    assert known - used == set()


@pytest.mark.parametrize("id", SURVEYED)
def test_a_system_keeps_to_the_forms(id: str) -> None:
    entry = SURVEYED[id]
    assert ID.fullmatch(id)
    assert entry.name
    assert entry.year is not None
    assert 2021 <= entry.year <= 2025
    assert entry.scope
    assert FOLDER[id] == entry.scope[0]
    assert entry.techniques
    assert len(set(entry.techniques)) == len(entry.techniques)
    assert set(entry.published_on) <= BACKBONES
    assert bool(entry.published_on) is (id not in WITHOUT_BACKBONE)
    assert entry.title
    assert re.fullmatch(r"(arXiv:\d{4}\.\d{4,5})?", entry.paper)
    assert _is_sentence(entry.summary, 160)
    assert not entry.note or _is_sentence(entry.note, 160)


@pytest.mark.parametrize("entry", techniques(), ids=lambda entry: entry.id)
def test_a_technique_keeps_to_the_forms(entry: TechniqueFacts) -> None:
    assert ID.fullmatch(entry.id)
    assert _are_some_of(entry.hooks, HOOKS)
    assert _is_sentence(entry.summary, 140)


def test_classes_implement_what_is_known() -> None:
    assert set(catalogue().implementations()) <= {entry.id for entry in techniques()}


def test_a_paper_is_not_younger_than_its_system() -> None:
    late = [e.id for e in SURVEYED.values() if e.paper and int("20" + e.paper[6:8]) > (e.year or 0)]
    assert late == []


def test_facts_are_read_once_and_cannot_be_changed() -> None:
    assert catalogue().heads() is catalogue().heads()
    assert techniques() is techniques()
    with pytest.raises(AttributeError):
        techniques()[0].id = "another"  # type: ignore[misc]


def test_a_planned_system_says_only_what_it_is() -> None:
    planned = [head for head in catalogue().heads().values() if not head.built]
    assert planned
    allowed = {*FACTS, "id", "name", "paper", "scope", "framework"}
    assert all(set(head.table) <= allowed for head in planned)


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _are_some_of(values: tuple[str, ...], allowed: tuple[str, ...]) -> bool:
    return bool(values) and set(values) <= set(allowed) and len(set(values)) == len(values)


def _is_sentence(text: str, longest: int) -> bool:
    return text[:1].isupper() and text.endswith(".") and "\n" not in text and len(text) <= longest
