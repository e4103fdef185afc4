"""Prompts to ids: placeholders become host ids plus spans, or plain text.

No ids are added to the tokenizer and no table is resized: ordinary ids stand at a placeholder's
positions, and the output of the embedding table is edited there. That keeps pooling at the right
position and removal exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.context import Context
    from pcs_core.backbone.protocol import Tokenizer
    from pcs_core.data.edits import TokenEdit, Word


@dataclass(frozen=True, slots=True)
class TokenisedPrompts:
    """``ids`` [b l] and, by placeholder key, ``spans`` [b count] of positions, -1 where absent."""

    ids: Tensor
    spans: Mapping[str, Tensor]


def substitute(prompt: str, words: Sequence[Word], subject: int = 0) -> str:
    """Return ``prompt`` with plain-text placeholders replaced; a noun already there is not doubled."""
    for word in words:
        if word.subject is not None and word.subject != subject:
            continue
        if word.noun and word.text.endswith(" " + word.noun):
            doubled = re.escape(word.token) + r"\s+" + re.escape(word.noun) + r"\b"
            prompt = word.text.join(re.split(doubled, prompt))
        prompt = prompt.replace(word.token, word.text)
    return prompt


def tokenise(
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    words: Sequence[Word] = (),
    tokens: Sequence[TokenEdit] = (),
    subjects: Sequence[int] | None = None,
) -> TokenisedPrompts:
    """Turn prompts into ids of the tokenizer's length and spans of each token edit.

    Spans are keyed by the edit's position in ``tokens`` (``"0"``, ``"1"``...), because subjects of one
    batch have placeholders of their own.

    Raises
    ------
    InputError
        A placeholder would be cut off because the prompt is too long.
    """
    rows: list[list[int]] = []
    spans: dict[str, list[list[int]]] = {str(i): [] for i in range(len(tokens))}
    for row, prompt in enumerate(prompts):
        subject = subjects[row] if subjects is not None else 0
        text = substitute(prompt, words, subject)
        places = {e.tokens[min(subject, len(e.tokens) - 1)]: i for i, e in enumerate(tokens)}
        ids = [tokenizer.start]
        found: dict[int, list[int]] = {i: [] for i in range(len(tokens))}
        pattern = "|".join(re.escape(t) for t in sorted(places, key=len, reverse=True))
        for piece in re.split(f"({pattern})", text) if places else [text]:
            if piece in places:
                edit = tokens[places[piece]]
                host = tokenizer.encode(edit.hosts[min(subject, len(edit.hosts) - 1)])[:1]
                if not found[places[piece]]:
                    found[places[piece]] = list(range(len(ids), len(ids) + edit.count))
                ids += (host or [tokenizer.pad]) * edit.count
            elif piece.strip():
                ids += tokenizer.encode(piece)
        room = tokenizer.length - 1
        if any(p >= room for positions in found.values() for p in positions):
            raise InputError(
                f"the prompt {prompt!r} is too long: its placeholder lies beyond the {room} tokens "
                "the text encoder reads. Shorten the prompt"
            )
        ids = [*ids[:room], tokenizer.end]
        rows.append(ids + [tokenizer.pad] * (tokenizer.length - len(ids)))
        for i, edit in enumerate(tokens):
            spans[str(i)].append(found[i] or [-1] * edit.count)
    return TokenisedPrompts(
        torch.tensor(rows, dtype=torch.long),
        {k: torch.tensor(v, dtype=torch.long) for k, v in spans.items()},
    )


class BoundEmbedding:
    """Stands in for the token table's ``forward`` and puts each edit's rows at its span."""

    def __init__(
        self, module: torch.nn.Module, edits: Sequence[TokenEdit], context: Context
    ) -> None:
        self.module, self.context = module, context
        self.edits = {str(i): edit for i, edit in enumerate(edits) if edit.stage() == "vocabulary"}

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the rows [b l d] of ``ids``, the edits' rows at their spans."""
        table = type(self.module).forward(self.module, ids)
        if self.context.off:
            return table
        for key, edit in self.edits.items():
            span = self.context.spans.get(key)
            if span is None or not self.context.acts(edit):
                continue
            rows = edit.vocabulary()
            own = rows if rows.shape[0] == 1 else rows[self.context.subject]
            table = place_rows(table, span, own)
        return table


def place_rows(table: Tensor, span: Tensor, rows: Tensor) -> Tensor:
    """Return ``table`` [b l d] with ``rows`` [b|1 n d] at positions ``span`` [b n] (-1: nowhere)."""
    hot = F.one_hot(span.clamp_min(0), table.shape[1]).to(table)
    hot = hot * (span >= 0).to(table).unsqueeze(-1)
    kept = table * (1 - hot.sum(1).unsqueeze(-1))
    return kept + torch.einsum("bnl,bnd->bld", hot, rows.to(table).expand(table.shape[0], -1, -1))
