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
    """``ids`` [b l] and, by placeholder key, ``spans`` [b n] of positions, -1 where absent.

    A placeholder that stands k times in a prompt has k times its count of positions, in order.
    """

    ids: Tensor
    spans: Mapping[str, Tensor]


def token_pattern(token: str) -> str:
    """Return the regular expression of ``token`` where it stands by itself, not inside a word."""
    before = r"(?<!\w)" if re.match(r"\w", token) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", token) else ""
    return before + re.escape(token) + after


def names_token(text: str, token: str) -> bool:
    """Return whether ``token`` stands in ``text``: "og" does not stand in "dog"."""
    return re.search(token_pattern(token), text) is not None


def substitute(prompt: str, words: Sequence[Word], subject: int = 0) -> str:
    """Return ``prompt`` with plain-text placeholders replaced; a noun already there is not doubled."""
    mine = {w.token: w for w in words if w.subject is None or w.subject == subject}
    if not mine:
        return prompt
    # one pass, longest first: a token may be part of another, or of the text it stands for
    patterns = []
    for token in sorted(mine, key=len, reverse=True):
        noun = mine[token].noun
        doubled = noun and mine[token].text.endswith(" " + noun)
        patterns.append(token_pattern(token) + (rf"(?:\s+{re.escape(noun)}\b)?" if doubled else ""))

    def text(match: re.Match[str]) -> str:
        found = next(t for t in sorted(mine, key=len, reverse=True) if match[0].startswith(t))
        return mine[found].text

    return re.sub("|".join(patterns), text, prompt)


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
    places: list[dict[int, list[int]]] = []
    room = tokenizer.length - 1
    for row, prompt in enumerate(prompts):
        subject = subjects[row] if subjects is not None else 0
        ids, found = _read(substitute(prompt, words, subject), tokenizer, tokens, subject)
        cut = any(p >= room for positions in found.values() for p in positions)
        if len(ids) > room and not cut:  # a placeholder that is plain text may be cut off too
            for word in words:
                found_word = re.search(token_pattern(word.token), prompt)
                if word.subject in (None, subject) and found_word:
                    head = prompt[: found_word.end()]
                    cut |= (
                        len(_read(substitute(head, words, subject), tokenizer, tokens, subject)[0])
                        > room
                    )
        if cut:
            raise InputError(
                f"the prompt {prompt!r} is too long: its placeholder lies beyond the {room} tokens "
                "the text encoder reads. Shorten the prompt"
            )
        ids = [*ids[:room], tokenizer.end]
        rows.append(ids + [tokenizer.pad] * (tokenizer.length - len(ids)))
        places.append(found)
    spans: dict[str, list[list[int]]] = {}
    for i, edit in enumerate(tokens):
        width = max([edit.count, *(len(found[i]) for found in places)])
        spans[str(i)] = [found[i] + [-1] * (width - len(found[i])) for found in places]
    return TokenisedPrompts(
        torch.tensor(rows, dtype=torch.long),
        {k: torch.tensor(v, dtype=torch.long) for k, v in spans.items()},
    )


def _read(
    text: str, tokenizer: Tokenizer, tokens: Sequence[TokenEdit], subject: int
) -> tuple[list[int], dict[int, list[int]]]:
    """Return the ids of ``text`` from the start token on, uncut, and each edit's positions."""
    edits: dict[str, list[int]] = {}
    for i, edit in enumerate(tokens):
        edits.setdefault(edit.tokens[min(subject, len(edit.tokens) - 1)], []).append(i)
    ids = [tokenizer.start]
    found: dict[int, list[int]] = {i: [] for i in range(len(tokens))}
    pattern = "|".join(token_pattern(t) for t in sorted(edits, key=len, reverse=True))
    for place, piece in enumerate(re.split(f"({pattern})", text) if edits else [text]):
        if place % 2:  # what the pattern matched
            first = tokens[edits[piece][0]]
            host = tokenizer.encode(first.hosts[min(subject, len(first.hosts) - 1)])[:1]
            count = max(tokens[i].count for i in edits[piece])
            for i in edits[piece]:
                found[i] += range(len(ids), len(ids) + tokens[i].count)
            ids += (host or [tokenizer.pad]) * count
        elif piece.strip():
            ids += tokenizer.encode(piece)
    return ids, found


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
            own = own.repeat(1, span.shape[1] // own.shape[1], 1)  # it may stand there twice
            table = place_rows(table, span, own)
        return table


def place_rows(table: Tensor, span: Tensor, rows: Tensor) -> Tensor:
    """Return ``table`` [b l d] with ``rows`` [b|1 n d] at positions ``span`` [b n] (-1: nowhere)."""
    hot = F.one_hot(span.clamp_min(0), table.shape[1]).to(table)
    hot = hot * (span >= 0).to(table).unsqueeze(-1)
    kept = table * (1 - hot.sum(1).unsqueeze(-1))
    return kept + torch.einsum("bnl,bnd->bld", hot, rows.to(table).expand(table.shape[0], -1, -1))
