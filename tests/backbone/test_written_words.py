"""How users write: accents in either form, scripts without spaces, texts that are too long."""

from __future__ import annotations

import logging
import unicodedata

import pytest

from pcs_core.backbone import Backbone, names_token, substitute, tokenise
from pcs_core.backbone.overlong import _tell
from pcs_core.data import Word
from pcs_core.errors import InputError
from pcs_engine import open_backbone, sample

COMPOSED = unicodedata.normalize("NFC", "<café>")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture(scope="module")
def one_window() -> Backbone:
    """A network whose text encoder reads no further than its length."""
    return open_backbone("tiny-tokens")


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    _tell.cache_clear()


@pytest.mark.parametrize(("token", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_an_accent_in_either_form_is_one_word(backbone: Backbone, token: str, written: str) -> None:
    assert names_token(f"a photo of {written}", token)
    word = Word(token, "sks dog", noun="dog")
    assert substitute(f"a photo of {written}", [word]) == "a photo of sks dog"
    spelled = tokenise([f"a {written}"], backbone.tokenizer, words=[word], concepts=[[token]])
    assert spelled.ids.tolist() == tokenise(["a sks dog"], backbone.tokenizer).ids.tolist()
    assert (spelled.spans["concept.0"] >= 0).any()


@pytest.mark.parametrize(
    ("text", "token", "stands"),
    [
        ("一张狗的照片", "狗", True),
        ("一张sks狗的照片", "sks", True),
        ("犬の写真", "犬", True),
        ("강아지가 있는 사진", "강아지", True),
        ("a photo of dogs", "dog", False),
        ("un éléphanteau", "éléphant", False),
        ("a golden  retriever", "golden retriever", True),
    ],
)
def test_where_a_word_ends(text: str, token: str, stands: bool) -> None:
    assert names_token(text, token) is stands


def test_a_noun_of_several_words_is_not_doubled() -> None:
    word = Word("<dog>", "sks golden retriever", noun="golden retriever")
    assert substitute("a <dog> golden  retriever runs", [word]) == "a sks golden retriever runs"
    assert substitute("一只<狗>狗", [Word("<狗>", "sks 狗", noun="狗")]) == "一只sks 狗"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a <dog> Dog runs", "a sks dog runs"),
        ("a <dog> DOG, red", "a sks dog, red"),
        ("a <Dog> dog", "a <Dog> dog"),
    ],
)
def test_case_counts_in_a_token_and_not_in_a_noun(prompt: str, expected: str) -> None:
    assert substitute(prompt, [Word("<dog>", "sks dog", noun="dog")]) == expected


@pytest.mark.parametrize("written", ["Golden  Retriever", "GOLDEN retriever", "golden\nretriever"])
def test_a_phrase_is_found_in_any_case_and_with_any_space(backbone: Backbone, written: str) -> None:
    prompts = tokenise([f"a {written} runs"], backbone.tokenizer, phrases=["golden retriever"])
    length = len(backbone.tokenizer.encode("golden retriever"))
    assert prompts.spans["phrase.0"][0].tolist() == list(range(2, 2 + length))


def test_half_a_character_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"half of a character .*U\+DCFF.* at place 2"):
        tokenise(["a \udcff dog"], backbone.tokenizer)


@pytest.mark.parametrize("mark", ["\ue000", "\ue001", "\ue002"])
def test_marks_in_a_users_text_are_refused(backbone: Backbone, mark: str) -> None:
    with pytest.raises(InputError, match=r"private character U\+E00[012] at place 2"):
        tokenise([f"a {mark} dog"], backbone.tokenizer)


def test_words_that_are_cut_off_are_said_once(
    one_window: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = one_window
    text = "a dog, " + "very " * backbone.tokenizer.length + "red on a beach"
    with caplog.at_level(logging.WARNING, "pcs"):
        for _ in range(2):
            tokenise([text], backbone.tokenizer)
    (record,) = caplog.records
    assert f"reads {backbone.tokenizer.length} tokens" in record.getMessage()
    rest = str(record.args[-1])  # type: ignore[index]
    assert rest.endswith("very red on a beach")
    # what is not named as cut off is read, and one word more would be too much
    whole = text.removesuffix(rest)
    room = backbone.tokenizer.length - 2
    assert len(backbone.tokenizer.encode(whole)) <= room
    assert len(backbone.tokenizer.encode(f"{whole} very very")) > room


@pytest.mark.parametrize("place", ["prompt", "negative"])
def test_a_drawing_says_what_is_cut_off(
    one_window: Backbone, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    backbone = one_window
    long = f"a {place} " + "very " * backbone.tokenizer.length + "blue"
    prompt, negative = (long, "") if place == "prompt" else ("a dog", long)
    with caplog.at_level(logging.WARNING, "pcs"):
        sample(None, backbone, prompt, negative=negative, steps=1, scale=2.0)
    assert [str(r.args[-1])[-4:] for r in caplog.records] == ["blue"]  # type: ignore[index]
