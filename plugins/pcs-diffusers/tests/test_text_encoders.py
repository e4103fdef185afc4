"""Several text encoders: learned rows reach each of them, and come off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion, TokenEdit
from pcs_diffusers.tiny import tiny_sd3, tiny_sdxl
from pcs_testing import Snapshot

MAKERS = {"sdxl": tiny_sdxl, "sd3": tiny_sd3}


@pytest.fixture(scope="module", params=MAKERS)
def backbone(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


class Rows(TokenEdit):
    def __init__(self, rows: torch.Tensor, host: str = "toy") -> None:
        super().__init__(["<x>"], count=rows.shape[1], hosts=[host], stacked=True)
        self.rows = nn.Parameter(rows.clone())

    def vocabulary(self) -> torch.Tensor:
        return self.rows


def said(backbone: Any, prompt: str, edit: TokenEdit | None = None) -> Any:
    tokens = () if edit is None else (edit,)
    with torch.no_grad(), Attachment(backbone, Fusion(edits=tokens)) as net:
        cond = net.encode_text(tokenise([prompt], backbone.tokenizer, tokens=tokens))
    return cond.text, cond.pooled


def test_a_row_of_the_noun_is_the_noun_in_every_encoder(backbone: Any) -> None:
    before = Snapshot(backbone)
    edit = Rows(backbone.embedding.words("dog")[None])
    ours = said(backbone, "a photo of <x> on the beach", edit)
    theirs = said(backbone, "a photo of dog on the beach")
    host = said(backbone, "a photo of toy on the beach")
    for actual, expected, other in zip(ours, theirs, host, strict=True):
        torch.testing.assert_close(actual, expected)
        assert (actual - other).abs().max() > 1e-3
    before.assert_unchanged()


def test_a_placeholder_stands_once_more_for_each_tokenizer(backbone: Any) -> None:
    edit = Rows(torch.zeros(1, 2, backbone.embedding.words("dog").shape[1]))
    prompts = tokenise(["a <x> and <x>", "nothing"], backbone.tokenizer, tokens=(edit,))
    length = backbone.tokenizer.length
    readers = 1 + len(backbone.tokenizer.beside)
    span = prompts.spans["0"]
    assert prompts.ids.shape[1] == sum(
        t.length for t in (backbone.tokenizer, *backbone.tokenizer.beside)
    )
    assert (span[0] >= 0).sum() == 4 * readers
    assert (span[1] < 0).all()
    assert ((span[0] >= length).sum() > 0) == (readers == 2)
    for reader, start in zip(
        (backbone.tokenizer, *backbone.tokenizer.beside), (0, length), strict=False
    ):
        at = prompts.ids[0, start : start + reader.length].tolist()
        assert reader.end in at
        assert (reader.start in at) == (reader.start >= 0)


def test_gradients_reach_the_columns_of_every_encoder(backbone: Any) -> None:
    edit = Rows(backbone.embedding.words("dog")[None])
    with Attachment(backbone, Fusion(edits=(edit,))) as net:
        cond = net.encode_text(tokenise(["a <x>"], backbone.tokenizer, tokens=(edit,)))
        (cond.text.square().sum() + cond.pooled.square().sum()).backward()
    assert edit.rows.grad is not None
    widths = [*backbone.embedding.clip_widths]
    widths += [edit.rows.shape[-1] - sum(widths)] if backbone.embedding.t5 else []
    assert sum(widths) == edit.rows.shape[-1]
    for part in edit.rows.grad[0, 0].split(widths):
        assert part.abs().max() > 1e-6


def test_padding_is_each_tokenizers_own(backbone: Any) -> None:
    ids = tokenise(["a dog"], backbone.tokenizer).ids[:, : backbone.tokenizer.length]
    (_, first), (_, second) = backbone.embedding.reads
    actual = backbone.embedding.own_ids(ids, second)
    theirs = second.inner(["a dog"], padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(actual, theirs)
    assert torch.equal(backbone.embedding.own_ids(ids, first), ids)
    assert not torch.equal(actual, ids)


def test_an_empty_prompt_is_told_as_zeros_where_the_model_was_trained_so() -> None:
    backbone = tiny_sdxl()
    text, pooled = said(backbone, "")
    assert not text.any()
    assert not pooled.any()
    backbone.empty_is_zero = False
    assert said(backbone, "")[0].any()
