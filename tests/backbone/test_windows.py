"""Texts longer than the text encoder reads at once: windows with a start and an end each, side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcs_core.backbone import Attachment, overlong, tokenise, windows
from pcs_core.backbone.windows import Reading, windows_of
from pcs_core.data import Fusion, TokenEdit
from pcs_engine import open_backbone

WORDS = "a red toy on the beach with blue snow in forest at table big dog style small car green grass".split()
READERS = ("tiny", "tiny-sdxl", "tiny-video")


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    windows._tell.cache_clear()
    overlong._tell.cache_clear()


@pytest.fixture(scope="module", params=READERS)
def reads_on(request: pytest.FixtureRequest) -> Any:
    return open_backbone(request.param)


def long_text(backbone: Any, end: str, count: int = 2) -> str:
    """Return a text whose end lies in the last of ``count`` windows."""
    room = backbone.tokenizer.length - 2
    words: list[str] = []
    while len(backbone.tokenizer.encode(" ".join(words))) <= room * (count - 1):
        words.append(WORDS[len(words) % len(WORDS)])
    return " ".join([*words, end])


def said(backbone: Any, prompts: Sequence[str], *edits: TokenEdit, **options: Any) -> Any:
    tokens = tokenise(prompts, backbone.tokenizer, tokens=edits, **options)
    subjects = torch.tensor(options.get("subjects") or [0] * len(prompts))
    with torch.no_grad(), Attachment(backbone, Fusion(edits=edits)) as net:
        return net.encode_text(tokens, subjects)


class Placed(TokenEdit):
    """Rows at the placeholders of subjects."""

    def __init__(self, tokens: list[str], rows: Tensor) -> None:
        super().__init__(tokens, count=rows.shape[-2], hosts=["toy"] * len(tokens), stacked=True)
        self.rows = nn.Parameter(rows)


class Rows(Placed):
    """The same in every layer [S n d]."""

    def vocabulary(self) -> Tensor:
        return self.rows


class LayerRows(Placed):
    """Others in each cross-attention layer [S layers n d]."""

    def layer(self, time: Any, layers: int, subject: Any = None) -> Tensor:
        return self.rows


def word(backbone: Any, text: str) -> Tensor:
    """Return what the token tables say of a word [1 n d]."""
    ids = torch.tensor([backbone.tokenizer.encode(text)])
    with torch.no_grad():
        return backbone.embedding(ids)


def test_each_window_is_what_the_encoder_says_of_it(reads_on: Any) -> None:
    """Against ids that are cut by hand: 22 at a time between a start and an end."""
    reader, room = reads_on.tokenizer, reads_on.tokenizer.length - 2
    text = " ".join([w for w in WORDS if reader.is_entry(w)] * 3)
    ids = reader.encode(text)
    whole = said(reads_on, [text])
    parts = []
    for begin in range(0, len(ids), room):
        part = [reader.start, *ids[begin : begin + room], reader.end]
        row = torch.tensor([part + [reader.pad] * (reader.length - len(part))])
        with torch.no_grad():
            parts.append(reads_on.encode_ids(row))
    assert tokenise([text], reader).windows == len(parts) == 3
    torch.testing.assert_close(whole.text, torch.cat([t for t, _ in parts], dim=1))
    torch.testing.assert_close(whole.pooled, parts[0][1])


def test_a_text_of_one_window_is_what_it_was_to_the_last_bit(reads_on: Any) -> None:
    prompts = ["a photo of a dog on the beach", "a red car", "a"]
    inner: Any = reads_on.tokenizer.inner
    ids = inner(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours = tokenise(prompts, reads_on.tokenizer)
    assert torch.equal(ours.ids, ids)
    assert ours.windows == 1
    if reads_on.card.family != "sdxl":
        with torch.no_grad():
            output = reads_on.text_encoder(input_ids=ids)
        cond = said(reads_on, prompts)
        assert torch.equal(cond.text, output.last_hidden_state)
        assert torch.equal(cond.pooled, output.pooler_output)


def test_shorter_prompts_are_filled_up_with_empty_windows(reads_on: Any) -> None:
    length = reads_on.tokenizer.length
    prompts = ["a dog", long_text(reads_on, "red dog", 3), ""]
    cond = said(reads_on, prompts)
    assert cond.text.shape[1] == 3 * length
    torch.testing.assert_close(cond.text[:1, :length], said(reads_on, ["a dog"]).text)
    # behind words an empty window is read, also where an empty prompt is told as zeros
    torch.testing.assert_close(cond.text[0, length : 2 * length], cond.text[0, 2 * length :])
    assert cond.text[0, length:].abs().sum() > 0
    if reads_on.card.family == "sdxl":
        assert not cond.text[2].any()
        assert not cond.pooled[2].any()
    torch.testing.assert_close(cond.pooled[:1], said(reads_on, ["a dog"]).pooled)


def test_no_word_is_split_between_two_windows(reads_on: Any) -> None:
    reader = reads_on.tokenizer
    text = "a " * (reader.length - 4) + "zebra dog"  # "zebra" is spelled in letters
    spelled = reader.encode("zebra")
    ids = tokenise([text], reader).ids[0].tolist()
    assert ids[reader.length + 1 :][: len(spelled)] == spelled
    assert ids[: reader.length].count(reader.encode("a")[0]) == reader.length - 4


def test_a_word_longer_than_a_window_is_split() -> None:
    reader = open_backbone("tiny").tokenizer
    (first, second, *_) = windows_of(Reading(ids=[1] * 50, pieces=[(0, "x")]), reader, 22)
    assert (first, second) == ((0, 22), (22, 44))


def test_a_learned_word_in_a_later_window(reads_on: Any) -> None:
    rows = word(reads_on, "dog")
    edit = Rows(["<x>"], rows.clone())
    for count in (1, 2, 3):
        text = long_text(reads_on, "{} on grass", count)
        ours = said(reads_on, [text.format("<x>"), "a"], edit)
        theirs = said(reads_on, [text.format("dog"), "a"])
        host = said(reads_on, [text.format("toy"), "a"])
        torch.testing.assert_close(ours.text, theirs.text)
        torch.testing.assert_close(ours.pooled, theirs.pooled)
        assert (host.text - theirs.text).abs().max() > 1e-3
        (at,) = (p for p in ours.spans["0"][0].tolist() if p >= 0)
        assert at // reads_on.tokenizer.length == count - 1


def test_a_word_of_several_rows_is_not_split(reads_on: Any) -> None:
    reader = reads_on.tokenizer
    rows = word(reads_on, "dog").repeat(1, 5, 1)
    text = "a " * (reader.length - 5) + "<x> red"
    spans = tokenise([text], reader, tokens=[Rows(["<x>"], rows)]).spans["0"][0].tolist()
    assert spans == list(range(reader.length + 1, reader.length + 6))


def test_subjects_have_their_own_rows_in_later_windows(reads_on: Any) -> None:
    rows = torch.cat([word(reads_on, "dog"), word(reads_on, "car")])
    edit = Rows(["<a>", "<b>"], rows)
    text = long_text(reads_on, "{} on grass")
    prompts = [text.format("<b>"), text.format("<a>"), "a <b>"]
    ours = said(reads_on, prompts, edit, subjects=[1, 0, 1])
    theirs = said(reads_on, [text.format("car"), text.format("dog"), "a car"])
    torch.testing.assert_close(ours.text, theirs.text)


def test_rows_of_each_layer_in_a_later_window(reads_on: Any) -> None:
    """Words per cross-attention layer (P+, NeTI) reach the second window of every layer's text."""
    layers = Attachment(reads_on, Fusion()).layers
    entries = [w for w in WORDS if reads_on.tokenizer.is_entry(w)]
    named = [entries[i % len(entries)] for i in range(layers)]
    rows = torch.stack([word(reads_on, name) for name in named], dim=1)  # [1 layers 1 d]
    text = long_text(reads_on, "{} on grass")
    cond = said(reads_on, [text.format("<x>")], LayerRows(["<x>"], rows))
    assert cond.layered.shape[:3] == (1, layers, 2 * reads_on.tokenizer.length)
    for layer, name in enumerate(named):
        expected = said(reads_on, [text.format(name)]).text
        torch.testing.assert_close(cond.layered[:, layer], expected)


@pytest.mark.parametrize("id", ["tiny-sd3", "tiny-tokens"])
def test_other_families_have_one_window(id: str, caplog: pytest.LogCaptureFixture) -> None:
    backbone = open_backbone(id)
    with caplog.at_level(logging.INFO, "pcs"):
        tokens = tokenise([long_text(backbone, "red dog"), "a"], backbone.tokenizer, windows=3)
    assert tokens.windows == 1
    (record,) = caplog.records
    assert "red dog" in record.getMessage()
    assert record.levelno == logging.WARNING


def test_windows_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    backbone = open_backbone("tiny")
    texts = [long_text(backbone, "red dog", 3), long_text(backbone, "a cat"), "a dog"]
    with caplog.at_level(logging.INFO, "pcs"):
        for _ in range(2):
            tokenise(texts, backbone.tokenizer)
    (record,) = caplog.records
    assert "and 1 more: longer than the 22 tokens" in record.getMessage()
    assert "in 3 windows" in record.getMessage()
