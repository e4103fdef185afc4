"""Every system's own captions stand in its recipe: a technique's generic ones never speak for a method."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from pcs_core import fit, load_recipe, open_backbone
from pcs_core.catalogue import catalogue
from pcs_testing import brief_settings, make_subject

SYSTEMS = sorted(catalogue().recipe_files())
ONE = {
    "anti-dreambooth": "a photo of {token}",
    "dreambooth": "a {token}",
    "dreamfusion": "a photo of {token}",
    "lora-dreambooth": "a photo of {token}",
    "oft": "a photo of {token}",
    "svdiff": "photo of a {token}",
}
"""The one sentence of systems whose scripts are told one; ``{token}`` becomes "sks dog" there."""


def uses(system: str) -> list[dict[str, Any]]:
    """Return the uses as the recipe's file says them, without any default."""
    text = catalogue().recipe_files()[system].read_text(encoding="utf-8")
    return list(tomllib.loads(text).get("use", []))


def captioning(system: str) -> list[dict[str, Any]]:
    """Return the uses whose technique captions references that have no caption."""
    kinds = {u["technique"]: catalogue().get("techniques", u["technique"]) for u in uses(system)}
    return [u for u in uses(system) if "templates" in kinds[u["technique"]].setting_names()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_captions_are_pinned(system: str) -> None:
    uses = captioning(system)
    assert uses, f"{system}: nothing says how a reference is captioned"
    unpinned = [u["technique"] for u in uses if "templates" not in u]
    assert unpinned == [], (
        f"{system}: the generic captions of {unpinned} would speak for the method"
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_photographs_are_not_called_drawings(system: str) -> None:
    """Nor by a learned word alone: it would come to mean the whole picture.

    Of a distribution of prompts that is the method: what is learned is the whole prompt.
    """
    words = [u for u in captioning(system) if u["technique"] != "tokens.distribution"]
    learned = [u for u in words if u.get("identifier") != ""]
    texts = [t for u in learned for t in u["templates"]]
    assert [t for t in texts if "drawing" in t or t.strip() == "{token}"] == []


@pytest.mark.parametrize(("system", "sentence"), ONE.items(), ids=list(ONE))
def test_one_sentence_of_the_script(system: str, sentence: str) -> None:
    (use,) = captioning(system)
    assert use["templates"] == [sentence]


def test_learned_words_share_the_published_list() -> None:
    """The 27 neutral sentences of Textual Inversion, which NeTI's code repeats and P+ builds on."""
    lists = [captioning(s)[0]["templates"] for s in ("textual-inversion", "neti", "p-plus")]
    assert lists[0] == lists[1] == lists[2]
    assert len(set(lists[0])) == 27
    assert all("photo" in t or "rend" in t for t in lists[0])


def test_the_network_is_told_these_sentences_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_engine import captions as table

    seen_captions: set[str] = set()
    add = table.CaptionTable.add

    def noted(self: Any, subject: int, caption: str) -> int:
        seen_captions.add(caption)
        return add(self, subject, caption)

    monkeypatch.setattr(table.CaptionTable, "add", noted)
    plain = load_recipe("textual-inversion")
    mirrored = ["data.augment.crop=0.0", "data.augment.rescale=[1.0, 1.0]"]
    recipe = load_recipe("textual-inversion", overrides=[*brief_settings(plain), *mirrored])
    fit(recipe, make_subject(), open_backbone("tiny"))
    expected = captioning("textual-inversion")[0]["templates"]
    assert seen_captions == {t.replace("{token}", "<fido>") for t in expected}
