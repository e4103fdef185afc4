"""A recipe's uses implement the survey's words for it; where they do not, its file says why."""

from __future__ import annotations

import pytest

from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Head, catalogue

HEADS = catalogue().heads()
BUILT = {id: head for id, head in HEADS.items() if head.built and "survey" in head.table}


def complaints(words: set[str], implemented: set[str], head: Head) -> list[str]:
    """Return what is not accounted for between the survey's words and those that uses implement."""
    left_out, beyond = set(head.left_out), set(head.beyond)
    lines = [f"no use implements {w}" for w in words - implemented - left_out]
    lines += [f"the survey does not name {w}" for w in implemented - words - beyond]
    lines += [f"{w} is not left out" for w in left_out - (words - implemented)]
    return lines + [f"{w} is not beyond the survey" for w in beyond - (implemented - words)]


def implemented(id: str) -> set[str]:
    return {word for use in load_recipe(id).uses for word in use.technique.implements()}


@pytest.mark.parametrize("id", BUILT)
def test_the_uses_are_the_surveys_words(id: str) -> None:
    head = BUILT[id]
    assert complaints(set(head.table["techniques"]), implemented(id), head) == []


def test_each_kind_of_difference_is_a_complaint() -> None:
    lines = complaints({"a", "b"}, {"b", "c"}, Head("x", left_out={"b": "-"}, beyond={"d": "-"}))
    assert lines == [
        "no use implements a",
        "the survey does not name c",
        "b is not left out",
        "d is not beyond the survey",
    ]
    head = Head("x", left_out={"a": "-"}, beyond={"c": "-"})
    assert complaints({"a", "b"}, {"b", "c"}, head) == []


def test_reasons_are_sentences() -> None:
    reasons = [r for h in HEADS.values() for r in (*h.left_out.values(), *h.beyond.values())]
    assert reasons
    assert all(r[:1].isupper() and r.endswith(".") and len(r) <= 160 for r in reasons)


def test_a_planned_system_differs_in_nothing() -> None:
    assert all(not h.left_out and not h.beyond for h in HEADS.values() if not h.built)


@pytest.mark.parametrize("id", BUILT)
def test_settings_choose_among_the_words_of_a_class(id: str) -> None:
    for use in load_recipe(id).uses:
        assert set(use.technique.implements()) <= set(use.technique.catalogue)
