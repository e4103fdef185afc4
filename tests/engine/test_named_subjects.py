"""Where a caption speaks of a concept: nouns of any language, in any case and form."""

from __future__ import annotations

import unicodedata

import pytest
import torch

from pcs_core.data import Concept, Subject
from pcs_engine.prepare import name_subject
from pcs_engine.shown import shown_concepts


def named(caption: str, *pairs: tuple[str, str]) -> str:
    """Return the caption of a picture that shows concepts of these tokens and nouns."""
    concepts = tuple(Concept(f"c{i}", token, noun) for i, (token, noun) in enumerate(pairs))
    return name_subject(caption, Subject("s", concepts, (torch.rand(3, 8, 8),)), 0)


@pytest.mark.parametrize(
    ("caption", "noun", "expected"),
    [
        ("a dog on grass", "dog", "a <x> on grass"),
        ("My Dog, asleep.", "dog", "My <x>, asleep."),
        ("a DOG!", "dog", "a <x>!"),
        ("(dog) on grass", "dog", "(<x>) on grass"),
        ("the dog's toy", "dog", "the <x>'s toy"),
        ("a doghouse", "dog", "<x>, a doghouse"),
        ("a photo of <dog-pug>", "dog", "<x>, a photo of <dog-pug>"),
        ("a <my-dog>, a dog", "dog", "a <my-dog>, a <x>"),
        ("dogs", "dog", "<x>, dogs"),
        ("a dog and a dog", "dog", "a <x> and a dog"),
        ("one  dog,\tred", "dog", "one  <x>,\tred"),
        ("my Teddy Bear sits", "teddy bear", "my <x> sits"),
        ("my teddy\nbear sits", "teddy bear", "my <x> sits"),
        ("a bear, teddy", "teddy bear", "<x>, a bear, teddy"),
        ("a St. Bernard, wet", "St. Bernard", "a <x>, wet"),
        ("a toy R2-D2.", "r2-d2", "a toy <x>."),
        ("my mother-in-law smiles", "mother-in-law", "my <x> smiles"),
        ("ein schöner Hund", "hund", "ein schöner <x>"),
        ("большая Собака спит", "собака", "большая <x> спит"),
        ("一只狗在草地上", "狗", "一只<x>在草地上"),
        ("草の上の犬の写真", "犬", "草の上の<x>の写真"),
        ("ぬいぐるみの写真", "ぬいぐるみ", "<x>の写真"),
        ("귀여운 강아지가 있는 사진", "강아지", "귀여운 <x>가 있는 사진"),
        ("รูปหมาบนหญ้า", "หมา", "รูป<x>บนหญ้า"),
        ("A CAFÉ at night", "café", "A <x> at night"),
        ("on grass", "dog", "<x>, on grass"),
        ("a <x> dog", "dog", "a <x> dog"),
    ],
)
def test_the_token_stands_where_the_noun_did(caption: str, noun: str, expected: str) -> None:
    assert named(caption, ("<x>", noun)) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_either_form_of_an_accent(form: str) -> None:
    caption = unicodedata.normalize(form, "a café at night")
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "café")
    assert named(caption, ("<x>", other)) == "a <x> at night"


def test_each_concept_takes_its_own_noun() -> None:
    pairs = (("<d>", "dog"), ("<h>", "hot dog"))
    assert named("a hot dog for the dog", *pairs) == "a <h> for the <d>"
    assert named("a dog eats a hot dog", *pairs) == "a <d> eats a <h>"
    toys = (("<d>", "dog"), ("<t>", "dog toy"))
    assert named("a dog toy for the dog", *toys) == "a <t> for the <d>"
    two = (("<a>", "dog"), ("<b>", "dog"))
    assert named("a dog beside a dog", *two) == "a <a> beside a <b>"
    assert named("a dog alone", *two) == "a <a> alone"


def test_a_noun_inside_a_token_names_nothing() -> None:
    concepts = (Concept("a", "<dog>", "puppy"), Concept("b", "<b>", "dog"))
    subject = Subject("s", concepts, (torch.rand(3, 8, 8),), captions=("a <dog> on grass",))
    assert [c.name for c in shown_concepts(subject, 0)] == ["a"]
    pets = (Concept("a", "<a>", "teddy bear"), Concept("b", "<b>", "狗"))
    subject = Subject("s", pets, (torch.rand(3, 8, 8),) * 2, captions=("My Teddy  bear", "一只狗"))
    assert [[c.name for c in shown_concepts(subject, i)] for i in range(2)] == [["a"], ["b"]]
