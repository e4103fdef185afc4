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

from pcs_core.backbone.overlong import Cut, behind, told_cuts
from pcs_core.backbone.written import UNSPACED, composed, token_pattern
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


_OPEN, _CLOSE = "\ue000", "\ue001"
"""Put around what a placeholder became, so that its positions are known. A text that holds them is refused."""


def check_private(text: str) -> None:
    """Refuse a text with the characters that mark placeholders inside this package.

    Raises
    ------
    InputError
        Names the character and its place.
    """
    for mark in (_OPEN, _CLOSE):
        if mark in text:
            raise InputError(
                f"the text {text!r} holds the private character U+{ord(mark):04X} at place "
                f"{text.index(mark)}, which means nothing to a text encoder: take it out"
            )


def substitute(
    prompt: str, words: Sequence[Word], subject: int = 0, *, marked: bool = False
) -> str:
    """Return ``prompt`` with plain-text placeholders replaced; a noun already there is not doubled.

    ``marked`` puts each replacement between private characters, its token first.
    """
    mine = {composed(w.token): w for w in words if w.subject is None or w.subject == subject}
    if not mine:
        return prompt
    prompt = composed(prompt)
    # one pass, longest first: a token may be part of another, or of the text it stands for
    patterns, tokens = [], sorted(mine, key=len, reverse=True)
    for token in tokens:
        noun = composed(mine[token].noun or "")
        doubled = noun and f" {composed(mine[token].text)}".endswith(" " + noun)
        gap = r"\s*" if noun and re.match(rf"[{UNSPACED}]", noun) else r"\s+"
        patterns.append(
            token_pattern(token) + (rf"(?:{gap}{token_pattern(noun)})?" if doubled else "")
        )

    def text(match: re.Match[str]) -> str:
        longest = tokens[match.lastindex - 1 if match.lastindex else 0]
        if marked:
            return f"{_OPEN}{longest}{_OPEN}{mine[longest].text}{_CLOSE}"
        return mine[longest].text

    return re.sub("|".join(f"({pattern})" for pattern in patterns), text, prompt)


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
    tokenised, cut = _tokenise(prompts, tokenizer, **given)
    cuts = [cut]
    for further in getattr(tokenizer, "beside", ()):
        more, cut = _tokenise(prompts, further, **given)
        tokenised = tokenised.beside(more)
        cuts.append(cut)
    told_cuts(cuts)
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
) -> tuple[TokenisedPrompts, dict[int, Cut]]:
    """Return ids and spans of one tokenizer, and by row what it does not read of a prompt."""
    rows: list[list[int]] = []
    cut: dict[int, Cut] = {}
    places: list[dict[str, list[int]]] = []
    limit = tokenizer.length - 1
    for row, prompt in enumerate(prompts):
        subject = subjects[row] if subjects is not None else 0
        named = concepts[min(subject, len(concepts) - 1)] if concepts else ()
        ids, positions = _ids_of(prompt, tokenizer, words, tokens, subject, phrases)
        for k, token in enumerate(named):
            edits = [i for i, e in enumerate(tokens) if token in e.tokens]
            learned = positions[str(edits[0])] if edits else []
            positions[f"concept.{k}"] = learned or positions.get(f"word.{composed(token)}", [])
        placeholders = [
            p for key, at in positions.items() if not key.startswith("phrase.") for p in at
        ]
        if len(ids) > limit and any(p >= limit for p in placeholders):
            raise InputError(
                f"the prompt {prompt!r} is too long: its placeholder lies beyond the {limit} tokens "
                "the text encoder reads. Shorten the prompt"
            )
        if len(ids) > limit:

            def fits(text: str, subject: int = subject) -> bool:
                return len(_ids_of(text, tokenizer, words, tokens, subject, ())[0]) <= limit

            cut[row] = Cut(prompt, behind(prompt, fits), tokenizer.length)
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
    ), cut


def _ids_of(
    prompt: str,
    tokenizer: Tokenizer,
    words: Sequence[Word],
    tokens: Sequence[TokenEdit],
    subject: int,
    phrases: Sequence[str],
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the ids of ``prompt`` from the start token on, uncut, and positions by name."""
    check_private(prompt)
    marked = substitute(composed(prompt), words, subject, marked=True)
    return _read(marked, tokenizer, tokens, subject, phrases)


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
        token = composed(edit.tokens[min(subject, len(edit.tokens) - 1)])
        edits.setdefault(token, []).append(i)
    phrases = [composed(phrase) for phrase in phrases]
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
