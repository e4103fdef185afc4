"""The captions of a fit: tokenised once, and encoded once where nothing in the text trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, TokenisedPrompts, tokenise
from pcs_core.backbone.known_texts import Made
from pcs_core.data import Conditioning, StreamEdit, TokenEdit, concatenate

if TYPE_CHECKING:
    from torch import Tensor

KEPT_TEXTS = 64
"""Batches of texts whose reading by a frozen network is kept: steps ask it about the same ones again."""


@dataclass
class CaptionTable:
    """All captions of a fit, tokenised once; encoded once too where nothing in the text trains.

    ``cond`` has a row per caption; None when the text must be encoded in every step.
    """

    captions: list[tuple[int, str]] = field(default_factory=list)
    tokens: TokenisedPrompts | None = None
    cond: Conditioning | None = None
    concepts: Sequence[Sequence[str]] = ()
    projected: Made = field(default_factory=dict)
    """Keys and values of the captions, where the table holds their texts."""
    base: dict[tuple[Any, ...], Conditioning] = field(default_factory=dict)
    """What the base made of texts that steps asked it about: the same in every step."""

    def add(self, subject: int, caption: str) -> int:
        """Return the row of ``caption`` for ``subject``, added if new."""
        key = (subject, caption)
        if key not in self.captions:
            self.captions.append(key)
        return self.captions.index(key)

    def encode(
        self, net: Attachment, *, constant: bool, concepts: Sequence[Sequence[str]] = ()
    ) -> None:
        """Tokenise all captions and, if ``constant``, encode them.

        ``concepts`` are the placeholders of each subject's concepts.
        """
        self.concepts = concepts
        subjects = [s for s, _ in self.captions]
        self.tokens = self._tokenise(net, [c for _, c in self.captions], subjects)
        self.cond = None  # an earlier phase may have left what it could keep
        self.projected, self.base = {}, {}
        if not constant:
            return
        index = torch.tensor(subjects, device=net.backbone.device)
        with torch.no_grad():
            parts = [
                net.encode_text(
                    self.tokens.rows(range(i, min(i + 64, len(subjects)))), index[i : i + 64]
                )
                for i in range(0, len(subjects), 64)
            ]
        self.cond = concatenate(tuple(parts))
        if self.cond.layered is None:
            self.projected = net.known_texts.make(self.cond.text)

    def _tokenise(
        self, net: Attachment, texts: Sequence[str], subjects: Sequence[int], windows: int = 1
    ) -> TokenisedPrompts:
        return tokenise(
            texts,
            net.backbone.tokenizer,
            words=net.fusion.words,
            tokens=net.fusion.of(TokenEdit),
            subjects=subjects,
            concepts=self.concepts,
            windows=windows,
        )

    def tell(
        self,
        net: Attachment,
        texts: Sequence[str],
        like: Conditioning,
        edits: str,
        model: str = "self",
    ) -> Conditioning:
        """Return the conditioning of texts that are no captions, one for each row of ``like``."""
        assert like.subject is not None
        windows = 1 if self.tokens is None else self.tokens.windows
        subjects = like.subject.tolist()

        def make() -> Conditioning:
            prompts = self._tokenise(net, texts, subjects, windows)
            return net.encode_text(
                prompts,
                like.subject,
                time=like.time,
                streams=like.streams,
                edits=edits,
                model=model,
            )

        if model != "base":
            return make().with_(extra=like.extra)
        cond = kept_texts(self.base, (*texts, *subjects, windows), make)
        return cond.with_(time=like.time, streams=like.streams, extra=like.extra)

    def read(
        self,
        net: Attachment,
        rows: Sequence[int],
        subject: Tensor,
        time: Tensor,
        streams: Mapping[str, Tensor],
        edits: str = "*",
    ) -> Conditioning:
        """Return the conditioning of the given rows, from the table or encoded now."""
        if self.cond is None:
            assert self.tokens is not None
            often = any(edit.readings > 1 for edit in net.fusion.of(TokenEdit))
            places = {caption: at for at, caption in enumerate(rows)} if often else {}
            if often and not any(edit.text_reads() for edit in net.fusion.edits):
                first = torch.tensor(list(places.values()), device=subject.device)
                once, time_of, subject_of = list(places), time[first], subject[first]
                streams_of = {name: tokens[first] for name, tokens in streams.items()}
            else:
                once, time_of, subject_of, streams_of = list(rows), time, subject, dict(streams)
            cond = net.encode_text(
                self.tokens.rows(once),
                subject_of,
                time=time_of,
                streams=streams_of,
                extra=net.strengths(len(once)),
                edits=edits,
            )
            if len(once) < len(rows):  # of a text that is read several times, one row was read
                place = {caption: at for at, caption in enumerate(once)}
                back = [place[caption] for caption in rows]
                cond = cond.rows_at(torch.tensor(back, device=subject.device))
        else:
            at = torch.as_tensor(list(rows), device=subject.device)
            cond = self.cond.rows_at(at)
            net.known_texts.show(cond.text, (self.projected, at))
        return cond.with_(subject=subject, time=time, streams=dict(streams))


def kept_texts(
    kept: dict[tuple[Any, ...], Conditioning],
    key: tuple[Any, ...],
    make: Callable[[], Conditioning],
) -> Conditioning:
    """Return what ``make`` made of the texts of ``key``, which a frozen network reads the same each time.

    The :data:`KEPT_TEXTS` last made are kept.
    """
    if key not in kept:
        while len(kept) >= KEPT_TEXTS:
            del kept[next(iter(kept))]
        kept[key] = make()
    return kept[key]


def text_is_constant(net: Attachment, training: Sequence[str]) -> bool:
    """True when no parameter in ``training`` changes what the text encoder says."""
    edits = net.fusion.edits
    reads = {thing for edit in edits for thing in edit.text_reads()}
    if "level" in reads or ("streams" in reads and net.fusion.of(StreamEdit)):
        return False  # says another thing in every step
    touching = {edit.owner for edit in edits if edit.touches_text()}
    # a use that edits both parts counts as touching: its text parameters train with it
    return not any(name.split("/", 1)[0] in touching for name in training)
