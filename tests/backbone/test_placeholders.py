"""Prompts to ids and spans: where a placeholder stands, and what stands there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core.backbone import Attachment, Backbone, names_token, substitute, tokenise
from pcs_core.data import Fusion, TokenEdit, Word
from pcs_core.errors import InputError
from pcs_engine import open_backbone
from pcs_testing import Snapshot, evaluate, evaluate_attached


class Rows(TokenEdit):
    """Trained rows at the placeholder's positions."""

    def __init__(self, tokens: list[str], count: int = 1, seed: int = 0, host: str = "dog") -> None:
        super().__init__(tokens, count=count, hosts=[host] * len(tokens), stacked=True)
        rng = torch.Generator().manual_seed(seed)
        self.rows = nn.Parameter(torch.randn(len(tokens), count, 32, generator=rng))

    def vocabulary(self) -> torch.Tensor:
        return self.rows


SKS = Word("<dog>", "sks dog", noun="dog")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of <dog>", "a photo of sks dog"),
        ("a photo of a <dog> dog", "a photo of a sks dog"),
        ("a <dog>  dog, red", "a sks dog, red"),
        ("a <dog> doghouse", "a sks dog doghouse"),
        ("a <dog> and a dog", "a sks dog and a dog"),
        ("<dog>, <dog>.", "sks dog, sks dog."),
        ("no token", "no token"),
    ],
)
def test_plain_text_placeholders(prompt: str, expected: str) -> None:
    assert substitute(prompt, [SKS]) == expected


def test_a_token_may_be_the_text_it_stands_for() -> None:
    word = Word("sks", "sks dog", noun="dog")
    assert substitute("a sks dog", [word]) == "a sks dog"
    assert substitute("a sks on a beach", [word]) == "a sks dog on a beach"


def test_a_token_may_begin_with_another() -> None:
    words = [Word("dog", "one"), Word("dog2", "two")]
    assert substitute("dog2 beside dog", words) == "two beside one"
    assert substitute("dog2 beside dog", words[::-1]) == "two beside one"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("og beside a dog", "sks cat beside a dog"),
        ("a doggy og cat.", "a doggy sks cat."),
        ("oggy, pre-og, (og)", "oggy, pre-sks cat, (sks cat)"),
        ("og's toy", "sks cat's toy"),
        ("og_2 and og2", "og_2 and og2"),
    ],
)
def test_a_token_is_not_found_inside_a_word(prompt: str, expected: str) -> None:
    assert substitute(prompt, [Word("og", "sks cat", noun="cat")]) == expected


def test_signs_around_a_token_end_it() -> None:
    assert substitute("a<dog>b", [Word("<dog>", "sks")]) == "asksb"
    assert [names_token(t, "<dog>") for t in ("a<dog>b", "a dog")] == [True, False]
    assert [names_token(t, "og") for t in ("a dog", "an og", "og's", "ogs")] == [
        False,
        True,
        True,
        False,
    ]


def test_words_of_another_subject_do_not_apply() -> None:
    words = [Word("<a>", "first", subject=0), Word("<a>", "second", subject=1)]
    assert [substitute("<a>", words, s) for s in (0, 1)] == ["first", "second"]


def test_no_text_is_doubled_when_the_noun_is_left_out() -> None:
    assert substitute("a <dog> dog", [Word("<dog>", "sks")]) == "a sks dog"


def spans_of(backbone: Backbone, prompt: str, *edits: Rows) -> tuple[list[int], list[list[int]]]:
    tokens = tokenise([prompt], backbone.tokenizer, tokens=edits)
    return tokens.ids[0].tolist(), [tokens.spans[str(i)][0].tolist() for i in range(len(edits))]


def test_plain_prompts_are_tokenised_as_by_the_tokenizer(backbone: Backbone) -> None:
    inner: Any = backbone.tokenizer.inner  # type: ignore[attr-defined]
    prompts = ["a photo of a dog", "", "Snow, forest; table!", "grass " * 40]
    theirs = inner(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours = tokenise(prompts, backbone.tokenizer)
    assert ours.windows == 2
    assert torch.equal(ours.ids[:, : backbone.tokenizer.length], theirs)
    assert torch.equal(tokenise(prompts[:3], backbone.tokenizer).ids, theirs[:3])


def test_a_placeholder_takes_the_positions_of_its_host(backbone: Backbone) -> None:
    ids, (span,) = spans_of(backbone, "a photo of <x> on the beach", Rows(["<x>"]))
    host = tokenise(["a photo of dog on the beach"], backbone.tokenizer).ids[0].tolist()
    assert span == [4]  # start, a, photo, of
    assert ids == host
    assert max(ids) < 623  # no new ids


def test_several_vectors_take_several_positions(backbone: Backbone) -> None:
    ids, (span,) = spans_of(backbone, "a photo of <x> on the beach", Rows(["<x>"], count=3))
    host = tokenise(["a photo of dog dog dog on the beach"], backbone.tokenizer).ids[0].tolist()
    assert span == [4, 5, 6]
    assert ids == host


@pytest.mark.parametrize(
    ("prompt", "place", "plain"),
    [
        ("<x>, red", 1, "dog , red"),
        ("red,<x>", 3, "red , dog"),
        ("(<x>)", 2, "( dog )"),
        ("<x>.", 1, "dog ."),
        ("the <x>'s toy", 2, "the dog 's toy"),
    ],
)
def test_a_placeholder_next_to_punctuation(
    backbone: Backbone, prompt: str, place: int, plain: str
) -> None:
    ids, (span,) = spans_of(backbone, prompt, Rows(["<x>"]))
    assert span == [place]
    assert ids == tokenise([plain], backbone.tokenizer).ids[0].tolist()


def test_a_learned_token_is_not_found_inside_a_word(backbone: Backbone) -> None:
    ids, (span,) = spans_of(backbone, "a dog on og", Rows(["og"]))
    assert span == [4]
    assert ids == tokenise(["a dog on dog"], backbone.tokenizer).ids[0].tolist()
    _, (span,) = spans_of(backbone, "a dog", Rows(["og"]))
    assert span == [-1]


def test_an_absent_placeholder_has_no_place(backbone: Backbone) -> None:
    _, (span,) = spans_of(backbone, "a photo of a dog", Rows(["<x>"], count=2))
    assert span == [-1, -1]


def test_a_repeated_placeholder_is_the_token_every_time(backbone: Backbone) -> None:
    edit = Rows(["<x>"], count=2)
    prompts = ["a <x> next to <x>", "one <x>"]
    tokens = tokenise(prompts, backbone.tokenizer, tokens=[edit])
    first = [2, 3, 2 + 2 + len(backbone.tokenizer.encode("next to"))]
    assert tokens.spans["0"][0].tolist() == [*first, first[-1] + 1]
    assert tokens.spans["0"][1].tolist()[2:] == [-1, -1]
    # the table holds the rows at both mentions, and nothing else moves
    table = backbone.embedding(tokens.ids)
    with torch.no_grad(), Attachment(backbone, Fusion(edits=(edit,))) as net:
        net.context.spans, net.context.subject = tokens.spans, torch.zeros(2, dtype=torch.long)
        changed = backbone.embedding(tokens.ids)
        net.context.spans = {}
    for row, span in enumerate(tokens.spans["0"].tolist()):
        places = [p for p in span if p >= 0]
        expected = edit.rows[0].repeat(len(places) // 2, 1)
        torch.testing.assert_close(changed[row, places], expected)
        rest = [i for i in range(24) if i not in places]
        assert torch.equal(changed[row, rest], table[row, rest])


def test_tokens_that_begin_alike_are_told_apart(backbone: Backbone) -> None:
    _, spans = spans_of(backbone, "<x>2 on <x>", Rows(["<x>"]), Rows(["<x>2"]))
    assert spans == [[3], [1]]


@pytest.fixture(scope="module")
def one_window() -> Backbone:
    """A network whose text encoder reads no further than its length."""
    return open_backbone("tiny-tokens")


def test_a_placeholder_that_is_cut_off_is_refused(one_window: Backbone) -> None:
    backbone, long = one_window, "grass " * 21
    assert spans_of(backbone, f"{long}<x>", Rows(["<x>"]))[1] == [[22]]
    with pytest.raises(InputError, match=r"too long.*Shorten"):
        spans_of(backbone, f"{long}red <x>", Rows(["<x>"]))
    with pytest.raises(InputError, match="too long"):  # its last vector would be
        spans_of(backbone, f"{long}<x>", Rows(["<x>"], count=2))
    # words after it may be cut, as any pipeline does
    assert spans_of(backbone, f"<x> {long * 2}", Rows(["<x>"]))[1] == [[1]]


def test_a_plain_text_placeholder_that_is_cut_off_is_refused(one_window: Backbone) -> None:
    backbone, word = one_window, Word("<x>", "red dog", noun="dog")
    tokenise([f"<x> {'grass ' * 40}"], backbone.tokenizer, words=[word])
    tokenise([f"{'grass ' * 20} <x>"], backbone.tokenizer, words=[word])
    with pytest.raises(InputError, match="too long"):
        tokenise([f"{'grass ' * 21} <x>"], backbone.tokenizer, words=[word])
    tokenise(["grass " * 40], backbone.tokenizer, words=[word])


def test_rows_of_subjects_have_tokens_and_values_of_their_own(backbone: Backbone) -> None:
    edit = Rows(["<a>", "<b>"], count=2)
    prompts, owners = ["a <b>", "red <a>", "a <b> on <a>"], [1, 0, 1]
    tokens = tokenise(prompts, backbone.tokenizer, tokens=[edit], subjects=owners)
    assert tokens.spans["0"].tolist()[:2] == [[2, 3], [2, 3]]
    assert tokens.spans["0"][2].tolist() == [2, 3]  # "<a>" is no token of subject 1
    with torch.no_grad(), Attachment(backbone, Fusion(edits=(edit,))) as net:
        net.context.spans, net.context.subject = tokens.spans, torch.tensor(owners)
        table = backbone.embedding(tokens.ids)
        net.context.spans = {}
    for row, owner in enumerate(owners):
        torch.testing.assert_close(table[row, [2, 3]], edit.rows[owner])


def test_the_pooled_position_does_not_move(backbone: Backbone) -> None:
    """The rows of the host reproduce it exactly, pooled state included."""
    table: Any = backbone.embedding
    edit = Rows(["<x>"])
    with torch.no_grad():
        edit.rows.copy_(table.weight[backbone.tokenizer.encode("dog")][None])
    ids = tokenise(["a photo of dog on the beach"], backbone.tokenizer).ids
    with torch.no_grad():
        text, pooled = backbone.encode_ids(ids)
        with Attachment(backbone, Fusion(edits=(edit,))) as net:
            tokens = tokenise(["a photo of <x> on the beach"], backbone.tokenizer, tokens=[edit])
            cond = net.encode_text(tokens, torch.tensor([0]))
            ours, ours_pooled = cond.text, cond.pooled
    assert torch.equal(text, ours)
    assert pooled is not None
    assert ours_pooled is not None
    assert torch.equal(pooled, ours_pooled)
    end = ids[0].tolist().index(backbone.tokenizer.end)
    assert torch.equal(ours_pooled[0], ours[0, end])


def test_rows_in_the_table_equal_a_table_that_was_resized(backbone: Backbone) -> None:
    """Against the usual way, a written table row: outputs and gradients."""
    edit = Rows(["<x>"], seed=3)
    table: Any = backbone.embedding
    host = backbone.tokenizer.encode("dog")
    prompts = ("a photo of <x> on the beach",)
    with Attachment(backbone, Fusion(edits=(edit,)), fitting=True) as net:
        ours = evaluate_attached(net, prompts).output
        ours.square().mean().backward()
    kept = table.weight.detach().clone()
    with torch.no_grad():
        table.weight[host] = edit.rows[0]
    table.weight.requires_grad_(True)
    with Attachment(backbone, Fusion()) as net:
        theirs = evaluate_attached(net, ("a photo of dog on the beach",)).output
        theirs.square().mean().backward()
    gradient = table.weight.grad[host]
    with torch.no_grad():
        table.weight.copy_(kept)
    table.weight.grad = None
    table.weight.requires_grad_(False)
    assert torch.equal(ours, theirs)
    assert edit.rows.grad is not None
    torch.testing.assert_close(edit.rows.grad[0], gradient, rtol=1e-6, atol=1e-9)


def test_removal_is_exact(backbone: Backbone) -> None:
    before, plain = Snapshot(backbone), evaluate(backbone)
    evaluate(backbone, Fusion(edits=(Rows(["<x>"]),)), ("a photo of <x>",))
    before.assert_unchanged()
    assert torch.equal(evaluate(backbone), plain)
