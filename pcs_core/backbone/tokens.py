"""Prompts to ids: placeholders become host ids plus spans, or plain text.

No ids are added to the tokenizer and no table is resized: ordinary ids stand at a placeholder's
positions, and the output of the embedding table is edited there. That keeps pooling at the right
position and removal exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.protocol import Tokenizer
    from pcs_core.data import Word
    from pcs_core.edits import TokenEdit


@dataclass(frozen=True, slots=True)
class TokenisedPrompts:
    """``ids`` [b l] and, by name, ``spans`` [b n] of positions, -1 where absent.

    Names as in ``Conditioning.spans``. A placeholder that stands k times in a prompt has k times its
    count of positions, in order.
    """

    ids: Tensor
    spans: Mapping[str, Tensor]

    def rows(self, rows: Sequence[int]) -> TokenisedPrompts:
        """Return the prompts of the given rows."""
        index = torch.as_tensor(list(rows))
        return TokenisedPrompts(self.ids[index], {k: v[index] for k, v in self.spans.items()})

    def beside(self, further: TokenisedPrompts) -> TokenisedPrompts:
        """Return these prompts with the ids of another tokenizer behind."""
        length = self.ids.shape[1]
        spans = {
            k: torch.cat([v, torch.where(further.spans[k] < 0, -1, further.spans[k] + length)], 1)
            for k, v in self.spans.items()
        }
        return TokenisedPrompts(torch.cat([self.ids, further.ids], dim=1), spans)

    def to(self, device: torch.device) -> TokenisedPrompts:
        """Return the same on ``device``."""
        return TokenisedPrompts(
            self.ids.to(device), {k: v.to(device) for k, v in self.spans.items()}
        )


def token_pattern(token: str) -> str:
    """Return the regular expression of ``token`` where it stands by itself, not inside a word."""
    before = r"(?<!\w)" if re.match(r"\w", token) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", token) else ""
    return before + re.escape(token) + after


def names_token(text: str, token: str) -> bool:
    """Return whether ``token`` stands in ``text``: "og" does not stand in "dog"."""
    return re.search(token_pattern(token), text) is not None


_OPEN, _CLOSE = "\ue000", "\ue001"
"""Put around what a placeholder became, so that its positions are known. No prompt holds them."""


def substitute(
    prompt: str, words: Sequence[Word], subject: int = 0, *, marked: bool = False
) -> str:
    """Return ``prompt`` with plain-text placeholders replaced; a noun already there is not doubled.

    ``marked`` puts each replacement between private characters, its token first.
    """
    mine = {w.token: w for w in words if w.subject is None or w.subject == subject}
    if not mine:
        return prompt
    # one pass, longest first: a token may be part of another, or of the text it stands for
    patterns = []
    for token in sorted(mine, key=len, reverse=True):
        noun = mine[token].noun
        doubled = noun and f" {mine[token].text}".endswith(" " + noun)
        patterns.append(token_pattern(token) + (rf"(?:\s+{re.escape(noun)}\b)?" if doubled else ""))

    def text(match: re.Match[str]) -> str:
        longest = next(t for t in sorted(mine, key=len, reverse=True) if match[0].startswith(t))
        if marked:
            return f"{_OPEN}{longest}{_OPEN}{mine[longest].text}{_CLOSE}"
        return mine[longest].text

    return re.sub("|".join(patterns), text, prompt)


def tokenise(
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    words: Sequence[Word] = (),
    tokens: Sequence[TokenEdit] = (),
    subjects: Sequence[int] | None = None,
    concepts: Sequence[Sequence[str]] = (),
    phrases: Sequence[str] = (),
) -> TokenisedPrompts:
    """Turn prompts into ids of the tokenizer's length and spans of placeholders.

    ``concepts`` are the placeholders of each subject's concepts, ``phrases`` further words to find.
    Spans of token edits are keyed by the edit's position in ``tokens`` (``"0"``, ``"1"``...), because
    subjects of one batch have placeholders of their own; ``concept.<k>`` and ``phrase.<k>`` likewise.

    With further tokenizers ``beside`` it, their ids stand behind, and so do the spans: a placeholder
    stands once more for each.

    Raises
    ------
    InputError
        A placeholder would be cut off because the prompt is too long.
    """
    given: dict[str, Any] = {
        "words": words,
        "tokens": tokens,
        "subjects": subjects,
        "concepts": concepts,
        "phrases": phrases,
    }
    tokenised = _tokenise(prompts, tokenizer, **given)
    for further in getattr(tokenizer, "beside", ()):
        tokenised = tokenised.beside(_tokenise(prompts, further, **given))
    return tokenised


def _tokenise(
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    words: Sequence[Word],
    tokens: Sequence[TokenEdit],
    subjects: Sequence[int] | None,
    concepts: Sequence[Sequence[str]],
    phrases: Sequence[str],
) -> TokenisedPrompts:
    """Turn prompts into ids and spans of one tokenizer."""
    rows: list[list[int]] = []
    places: list[dict[str, list[int]]] = []
    limit = tokenizer.length - 1
    for row, prompt in enumerate(prompts):
        subject = subjects[row] if subjects is not None else 0
        named = concepts[min(subject, len(concepts) - 1)] if concepts else ()
        marked = substitute(prompt, words, subject, marked=True)
        ids, positions = _read(marked, tokenizer, tokens, subject, phrases)
        for k, token in enumerate(named):
            edits = [i for i, e in enumerate(tokens) if token in e.tokens]
            learned = positions[str(edits[0])] if edits else []
            positions[f"concept.{k}"] = learned or positions.get(f"word.{token}", [])
        placeholders = [
            p for key, at in positions.items() if not key.startswith("phrase.") for p in at
        ]
        if len(ids) > limit and any(p >= limit for p in placeholders):
            raise InputError(
                f"the prompt {prompt!r} is too long: its placeholder lies beyond the {limit} tokens "
                "the text encoder reads. Shorten the prompt"
            )
        ids = [*ids[:limit], tokenizer.end]
        rows.append(ids + [tokenizer.pad] * (tokenizer.length - len(ids)))
        places.append({k: [p for p in at if p < limit] for k, at in positions.items()})
    counts = {str(i): edit.count for i, edit in enumerate(tokens)}
    counts |= {f"phrase.{k}": 1 for k in range(len(phrases))}
    counts |= {f"concept.{k}": 1 for k in range(max(map(len, concepts), default=0))}
    spans: dict[str, list[list[int]]] = {}
    for key, count in counts.items():
        width = max([count, *(len(positions.get(key, [])) for positions in places)])
        per_row = [positions.get(key, []) for positions in places]
        spans[key] = [at + [-1] * (width - len(at)) for at in per_row]
    return TokenisedPrompts(
        torch.tensor(rows, dtype=torch.long),
        {k: torch.tensor(v, dtype=torch.long) for k, v in spans.items()},
    )


def _read(
    text: str,
    tokenizer: Tokenizer,
    tokens: Sequence[TokenEdit],
    subject: int,
    phrases: Sequence[str] = (),
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the ids of ``text`` from the start token on, uncut, and positions by name.

    ``<i>`` those of token edit i, ``word.<token>`` those of a replaced placeholder, ``phrase.<k>``.
    """
    edits: dict[str, list[int]] = {}
    for i, edit in enumerate(tokens):
        edits.setdefault(edit.tokens[min(subject, len(edit.tokens) - 1)], []).append(i)
    ids = [tokenizer.start] if tokenizer.start >= 0 else []
    positions: dict[str, list[int]] = {str(i): [] for i in range(len(tokens))}
    positions |= {f"phrase.{k}": [] for k in range(len(phrases))}
    named = [*edits, *(p for p in phrases if p not in edits)]
    plain = "|".join(token_pattern(t) for t in sorted(named, key=len, reverse=True))
    marks = f"{_OPEN}[^{_OPEN}]*{_OPEN}|{_CLOSE}"
    inside: list[tuple[str, int]] = []
    for place, piece in enumerate(re.split(f"({marks}|{plain})" if plain else f"({marks})", text)):
        if not place % 2:
            if piece.strip():
                ids += tokenizer.encode(piece)
        elif piece == _CLOSE:
            token, first = inside.pop()
            positions.setdefault(f"word.{token}", []).extend(range(first, len(ids)))
        elif piece.startswith(_OPEN):
            inside.append((piece.strip(_OPEN), len(ids)))
        else:  # a learned placeholder, or the words of a phrase
            first = len(ids)
            if piece in edits:
                learned = tokens[edits[piece][0]]
                host = tokenizer.encode(learned.hosts[min(subject, len(learned.hosts) - 1)])[:1]
                count = max(tokens[i].count for i in edits[piece])
                for i in edits[piece]:
                    positions[str(i)] += range(first, first + tokens[i].count)
                ids += (host or [tokenizer.pad]) * count
            else:
                ids += tokenizer.encode(piece)
            for k, phrase in enumerate(phrases):
                if phrase == piece:
                    positions[f"phrase.{k}"] += range(first, len(ids))
    for k, phrase in enumerate(phrases):  # a phrase may be a placeholder that became plain text
        positions[f"phrase.{k}"] += positions.get(f"word.{phrase}", [])
    return ids, positions
