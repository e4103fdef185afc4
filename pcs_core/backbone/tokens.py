"""Prompts to ids: placeholders become host ids plus spans, or plain text.

No ids are added to the tokenizer and no table is resized: ordinary ids stand at a placeholder's
positions, and the output of the embedding table is edited there. That keeps pooling at the right
position and removal exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch

from pcs_core.backbone.overlong import Cut, behind, warn_of_cuts
from pcs_core.backbone.weighed import tell_weighted
from pcs_core.backbone.windows import Reading, reads_windows, tell_windows, windows_of
from pcs_core.backbone.written import UNSPACED, alike, composed, token_pattern
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.protocol import Tokenizer
    from pcs_core.data import PromptReader, Word
    from pcs_core.edits import TokenEdit


@dataclass(frozen=True, slots=True)
class TokenisedPrompts:
    """``ids`` [b l] and, by name, ``spans`` [b n] of positions, -1 where absent.

    Names as in ``Conditioning.spans``. A placeholder that stands k times in a prompt has k times its
    count of positions, in order. ``windows``: how many windows of the text encoder stand in ``ids`` side by
    side. ``weights`` [b l] of the positions, None where all are 1.
    """

    ids: Tensor
    spans: Mapping[str, Tensor]
    windows: int = 1
    weights: Tensor | None = None

    def rows(self, rows: Sequence[int]) -> TokenisedPrompts:
        """Return the prompts of the given rows."""
        index = torch.as_tensor(list(rows))
        return self._each(lambda t: t[index])

    def beside(self, further: TokenisedPrompts) -> TokenisedPrompts:
        """Return these prompts with the ids of another tokenizer behind."""
        length = self.ids.shape[1]
        spans = {
            k: torch.cat([v, torch.where(further.spans[k] < 0, -1, further.spans[k] + length)], 1)
            for k, v in self.spans.items()
        }
        weights = None
        if self.weights is not None or further.weights is not None:
            parts = (self, further)
            weights = torch.cat(
                [torch.ones(p.ids.shape) if p.weights is None else p.weights for p in parts], dim=1
            )
        return TokenisedPrompts(
            torch.cat([self.ids, further.ids], dim=1), spans, self.windows, weights
        )

    def to(self, device: torch.device) -> TokenisedPrompts:
        """Return the same on ``device``."""
        return self._each(lambda t: t.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> TokenisedPrompts:
        return TokenisedPrompts(
            function(self.ids),
            {k: function(v) for k, v in self.spans.items()},
            self.windows,
            None if self.weights is None else function(self.weights),
        )


_OPEN, _CLOSE = "\ue000", "\ue001"
"""Put around what a placeholder became, so that its positions are known. A text that holds them is refused."""
_KEPT = "\ue002"
"""Put around the number of a token while weights are read: "[V]" may be a token, and no brackets."""


MOST_CHARACTERS = 50_000
"""Of one text: some twelve thousand words, which are 160 windows of an encoder that reads 75 at once."""


def check_text(text: str) -> None:
    """Refuse a text that is too long, has the characters that mark placeholders here, or half of one.

    Raises
    ------
    InputError
        Names the character and its place.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"the text {text[:40]!r}... has {len(text)} characters: give {MOST_CHARACTERS} or fewer"
        )
    for mark in (_OPEN, _CLOSE, _KEPT):
        if mark in text:
            raise InputError(
                f"the text {text!r} holds the private character U+{ord(mark):04X} at place "
                f"{text.index(mark)}, which means nothing to a text encoder: take it out"
            )
    if half := re.search("[\ud800-\udfff]", text):
        raise InputError(
            f"the text {text!r} holds half of a character (the surrogate U+{ord(half[0]):04X}) at place "
            f"{half.start()}: it was not written as UTF-8; type or save it anew"
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
        behind_it = rf"(?:{gap}{token_pattern(noun, any_case=True)})?" if doubled else ""
        patterns.append(token_pattern(token) + behind_it)

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
    windows: int = 1,
    reader: PromptReader | None = None,
) -> TokenisedPrompts:
    """Turn prompts into ids of the tokenizer's length and spans of placeholders.

    ``concepts`` are the placeholders of each subject's concepts, ``phrases`` further words to find.
    Spans of token edits are keyed by the edit's position in ``tokens`` (``"0"``, ``"1"``...), because
    subjects of one batch have placeholders of their own; ``concept.<k>`` and ``phrase.<k>`` likewise.

    A text that is longer is read in windows where the tokenizer says ``windows``, each of its length: all
    prompts have as many then, ``windows`` at least. Elsewhere the words that are cut off are said.
    ``reader`` says which words have a weight; without one a text is read as it is written.

    With further tokenizers ``beside`` it, their ids stand behind, and so do the spans: a placeholder
    stands once more for each.

    Raises
    ------
    InputError
        A placeholder would be cut off because the prompt is too long; a text that is none (a half of a
        character, a private one).
    """
    given = _Given(words, tokens, phrases, reader)
    named = [
        concepts[min(subjects[row] if subjects is not None else 0, len(concepts) - 1)]
        if concepts
        else ()
        for row in range(len(prompts))
    ]
    if reader is None:
        tell_weighted(prompts)
    else:
        for prompt in prompts:
            reader.tell(prompt)
    parts, cuts = [], []
    for one in (tokenizer, *getattr(tokenizer, "beside", ())):
        readings = [
            given.read(prompt, one, subjects[row] if subjects is not None else 0)
            for row, prompt in enumerate(prompts)
        ]
        for reading, concept_tokens in zip(readings, named, strict=True):
            _name_concepts(reading, concept_tokens, tokens)
        cuts.append(_cut(prompts, readings, one, given, subjects))
        parts.append(
            _laid_out(prompts, readings, one, given, windows, max(map(len, named), default=0))
        )
    warn_of_cuts(cuts)
    return reduce(TokenisedPrompts.beside, parts)


@dataclass(frozen=True, slots=True)
class _Given:
    """What prompts are read with."""

    words: Sequence[Word]
    tokens: Sequence[TokenEdit]
    phrases: Sequence[str]
    reader: PromptReader | None

    def read(self, prompt: str, tokenizer: Tokenizer, subject: int) -> Reading:
        """Return how one tokenizer reads ``prompt``."""
        check_text(prompt)
        text = composed(prompt)
        reading = Reading()
        noun = ""
        for part, weight in self._parts(text) or (("", 1.0),):
            if noun and weight == 1.0:  # "(<dog>:1.3) dog" says its noun once, as "<dog> dog"
                part = re.sub(rf"^\s*{token_pattern(noun, any_case=True)}", "", part)
            noun = self._noun_at_end(part, subject)
            marked = substitute(part, self.words, subject, marked=True)
            _read(reading, marked, tokenizer, self.tokens, subject, self.phrases)
            reading.weights += [weight] * (len(reading.ids) - len(reading.weights))
        for k, phrase in enumerate(self.phrases):  # it may be a placeholder that became plain text
            reading.places[f"phrase.{k}"] += reading.places.get(f"word.{composed(phrase)}", [])
        return reading

    def _noun_at_end(self, part: str, subject: int) -> str:
        """Return the noun with which the words of a placeholder at the end of ``part`` end; "" without one."""
        for word in self.words:
            mine = word.subject in (None, subject) and word.noun and word.text.endswith(word.noun)
            if mine and re.search(token_pattern(word.token) + r"\Z", part.rstrip()):
                return composed(word.noun)
        return ""

    def _parts(self, text: str) -> Sequence[tuple[str, float]]:
        """Return the pieces of ``text`` with their weights."""
        if self.reader is None:
            return ((text, 1.0),)
        learned = [token for edit in self.tokens for token in edit.tokens]
        names = [composed(token) for token in (*(w.token for w in self.words), *learned)]
        return weighed_parts(self.reader.parts, text, names)

    def count(self, text: str, tokenizer: Tokenizer, subject: int) -> int:
        """Return the number of ids of the beginning of a prompt, whose brackets may not be closed yet."""
        try:
            return len(self.read(text, tokenizer, subject).ids)
        except InputError:
            plain = re.sub(r"[()\[\]]", " ", text)
            return len(replace(self, reader=None).read(plain, tokenizer, subject).ids)


def weighed_parts(
    read: Callable[[str], Sequence[tuple[str, float]]], text: str, tokens: Sequence[str]
) -> list[tuple[str, float]]:
    """Return the pieces of ``text`` with their weights as ``read`` reads them; ``tokens`` hold no sign.

    Raises
    ------
    InputError
        ``read`` refuses the text; names it.
    """
    names = sorted(dict.fromkeys(tokens), key=len, reverse=True)
    pattern = "|".join(f"({token_pattern(name)})" for name in names)

    def kept(match: re.Match[str]) -> str:
        return f"{_KEPT}{(match.lastindex or 1) - 1}{_KEPT}"

    def named(text: str) -> str:
        mark = f"(?:{_KEPT}|{re.escape(ascii(_KEPT)[1:-1])})"  # as it is, and as a message writes it out
        return re.sub(f"{mark}(\\d+){mark}", lambda match: names[int(match[1])], text)

    try:
        parts = read(re.sub(pattern, kept, text) if names else text)
    except InputError as error:
        raise InputError(f"the prompt {text!r}: {named(str(error))}") from error
    return [(named(part), weight) for part, weight in parts]


def _name_concepts(reading: Reading, named: Sequence[str], tokens: Sequence[TokenEdit]) -> None:
    """Let ``concept.<k>`` be where the k-th concept stands, as learned rows or as plain words."""
    for k, token in enumerate(named):
        edits = [i for i, e in enumerate(tokens) if token in e.tokens]
        learned = reading.places[str(edits[0])] if edits else []
        reading.places[f"concept.{k}"] = learned or reading.places.get(
            f"word.{composed(token)}", []
        )


def _cut(
    prompts: Sequence[str],
    readings: Sequence[Reading],
    tokenizer: Tokenizer,
    given: _Given,
    subjects: Sequence[int] | None,
) -> dict[int, Cut]:
    """Return by row what the tokenizer's encoder does not read of a prompt; nothing in windows."""
    cuts: dict[int, Cut] = {}
    room = room_of(tokenizer)
    for row, (prompt, reading) in enumerate(zip(prompts, readings, strict=True)):
        if reads_windows(tokenizer) or len(reading.ids) <= room:
            continue
        at = [p for k, v in reading.places.items() if not k.startswith("phrase.") for p in v]
        if any(p >= room for p in at):
            raise InputError(
                f"the prompt {prompt!r} is too long: its placeholder lies beyond the "
                f"{tokenizer.length - 1} tokens the text encoder reads. Shorten the prompt"
            )
        subject = subjects[row] if subjects is not None else 0

        def fits(text: str, subject: int = subject) -> bool:
            return given.count(text, tokenizer, subject) <= room

        cuts[row] = Cut(prompt, behind(prompt, fits), tokenizer.length)
    return cuts


def _laid_out(
    prompts: Sequence[str],
    readings: Sequence[Reading],
    tokenizer: Tokenizer,
    given: _Given,
    windows: int,
    concepts: int,
) -> TokenisedPrompts:
    """Return the readings as rows of one length, in as many windows as the longest needs."""
    room = room_of(tokenizer)
    if reads_windows(tokenizer):
        ranges = [windows_of(reading, tokenizer, room) for reading in readings]
        tell_windows(prompts, list(map(len, ranges)), room)
    else:
        ranges, windows = [[(0, min(len(r.ids), room))] for r in readings], 1
    windows = max([windows, *map(len, ranges)])
    rows = [
        _row(reading, [*within, *[(0, 0)] * (windows - len(within))], tokenizer)
        for reading, within in zip(readings, ranges, strict=True)
    ]
    counts = {str(i): edit.count for i, edit in enumerate(given.tokens)}
    counts |= {f"phrase.{k}": 1 for k in range(len(given.phrases))}
    counts |= {f"concept.{k}": 1 for k in range(concepts)}
    weights = torch.tensor([row.weights for row in rows])
    return TokenisedPrompts(
        torch.tensor([row.ids for row in rows], dtype=torch.long),
        _spans([row.places for row in rows], counts),
        windows,
        None if bool((weights == 1.0).all()) else weights,
    )


def _row(reading: Reading, ranges: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> Reading:
    """Return the ``ranges`` of a reading as windows, each with start, end and padding."""
    lead = [tokenizer.start] if tokenizer.start >= 0 else []
    row, moved = Reading(), dict[int, int]()
    for begin, stop in ranges:
        first = len(row.ids) + len(lead)
        moved |= {p: first + p - begin for p in range(begin, stop)}
        window = [*lead, *reading.ids[begin:stop], tokenizer.end]
        padding = tokenizer.length - len(window)
        row.ids += [*window, *[tokenizer.pad] * padding]
        heavy = reading.weights[begin:stop]
        row.weights += [*[1.0] * len(lead), *heavy, *[1.0] * (padding + 1)]
    row.places = {k: [moved[p] for p in v if p in moved] for k, v in reading.places.items()}
    return row


def _spans(
    places: Sequence[Mapping[str, list[int]]], counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return spans [b n] of each name, n its count at least."""
    spans = {}
    for key, count in counts.items():
        width = max([count, *(len(one.get(key, [])) for one in places)])
        per_row = [one.get(key, []) for one in places]
        spans[key] = torch.tensor([at + [-1] * (width - len(at)) for at in per_row]).long()
    return spans


def room_of(tokenizer: Tokenizer) -> int:
    """Return how many ids of a text fit beside start and end."""
    return tokenizer.length - 1 - (tokenizer.start >= 0)


def _read(
    reading: Reading,
    text: str,
    tokenizer: Tokenizer,
    tokens: Sequence[TokenEdit],
    subject: int,
    phrases: Sequence[str] = (),
) -> None:
    """Put the ids of ``text`` behind those of ``reading``, and positions by name.

    ``<i>`` those of token edit i, ``word.<token>`` those of a replaced placeholder, ``phrase.<k>``.
    """
    edits: dict[str, list[int]] = {}
    for i, edit in enumerate(tokens):
        token = " ".join(composed(edit.tokens[min(subject, len(edit.tokens) - 1)]).split())
        edits.setdefault(token, []).append(i)
    ids, positions = reading.ids, reading.places
    for key in (*map(str, range(len(tokens))), *(f"phrase.{k}" for k in range(len(phrases)))):
        positions.setdefault(key, [])
    named = [(token, False) for token in edits] + [(p, True) for p in phrases if p not in edits]
    named.sort(key=lambda pair: len(pair[0]), reverse=True)
    plain = "|".join(token_pattern(words, any_case=any_case) for words, any_case in named)
    marks = f"{_OPEN}[^{_OPEN}]*{_OPEN}|{_CLOSE}"
    inside: list[tuple[str, int]] = []
    for place, piece in enumerate(re.split(f"({marks}|{plain})" if plain else f"({marks})", text)):
        first = len(ids)
        if not place % 2:
            if piece.strip():
                reading.pieces.append((first, piece))
                ids += tokenizer.encode(piece)
        elif piece == _CLOSE:
            token, first = inside.pop()
            positions.setdefault(f"word.{token}", []).extend(range(first, len(ids)))
        elif piece.startswith(_OPEN):
            inside.append((piece.strip(_OPEN), first))
        elif mine := edits.get(" ".join(piece.split())):  # a learned placeholder
            reading.pieces.append((first, ""))
            learned = tokens[mine[0]]
            host = tokenizer.encode(learned.hosts[min(subject, len(learned.hosts) - 1)])[:1]
            count = max(tokens[i].count for i in mine)
            for i in mine:
                positions[str(i)] += range(first, first + tokens[i].count)
            ids += (host or [tokenizer.pad]) * count
        else:  # the words of a phrase
            reading.pieces.append((first, piece))
            ids += tokenizer.encode(piece)
        for k, phrase in enumerate(phrases):
            if place % 2 and alike(phrase, piece):
                positions[f"phrase.{k}"] += range(first, len(ids))
