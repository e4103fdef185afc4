"""New words by optimised embedding rows (Textual Inversion, arXiv:2208.01618, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, TokenEdit, Word
from pcs_core.errors import InputError
from pcs_tokens.templates import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import Concept, Run, Subject


class LearnedRows(TokenEdit):
    """Rows [S, n, d] that stand at the placeholder's positions in front of the text encoder."""

    def __init__(self, start: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=start.shape[1], hosts=hosts, stacked=True)
        self.rows = nn.Parameter(start.clone())

    def vocabulary(self) -> Tensor:
        """Return the rows."""
        return self.rows


class LearnableToken(Technique):
    """Replace the placeholder by ``vectors`` trained embedding rows."""

    id = "tokens.learnable"
    rowwise = True
    catalogue: ClassVar[tuple[str, ...]] = ("learnable-token",)
    later = ("sigma", "tokens")
    weighs = ("*/rows",)

    vectors: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of rows a placeholder takes."""
    init: Literal["noun", "random", "word", "mixed"] = "noun"
    """Start value: the mean of the noun's rows, of ``init_word``'s, Gaussian noise of that norm, or
    "mixed": the first half of the vectors is noise, the rest the noun (Mix-of-Show)."""
    init_word: str = ""
    """The word to start from when ``init`` is "word"; empty: the noun."""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Gaussian noise added to the start value, relative to its norm, so that rows differ."""
    sigma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Standard deviation of each element of a row that starts as noise ("random", "mixed"); 0: the row has the
    norm of the noun's. Mix-of-Show starts from 0.013, a norm of 0.36 at width 768."""
    with_noun: bool = False
    """Whether the noun follows the token wherever it stands, in captions and prompts ("<dog> dog")."""
    templates: tuple[str, ...] = TEMPLATES
    """Captions of references that have none; ``{token}`` stands for the subject."""
    tokens: tuple[str, ...] = ()
    """Placeholders that get rows here, where another use gives the others theirs; empty: every concept's."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one stacked row block per concept slot into the vocabulary."""
        edits = []
        for concepts in self._slots(features):
            start = torch.stack(
                [self._start(run, concept, subject) for subject, concept in enumerate(concepts)]
            )
            edits.append(
                LearnedRows(start, [c.token for c in concepts], [c.noun for c in concepts])
            )
        return Fusion(words=self._nouns(features) if self.with_noun else (), edits=tuple(edits))

    def at_strength(self, run: Run, name: str, value: Tensor, strength: float) -> Tensor:
        """Return rows [... d] between the noun's mean row, at 0, and the learned ones, at 1."""
        token = name.rpartition("/")[0]
        (noun,) = {c.noun for c in run.features.concepts[0] if c.token == token}
        row = run.embed_words(noun).mean(dim=0).to(value)
        return row + strength * (value - row)

    def _slots(self, features: Features) -> list[list[Concept]]:
        """Return the concepts that get rows, one of each subject at a time; one with fewer repeats its last."""
        meant = [self._meant(concepts) for concepts in features.concepts]
        count = max(len(c) for c in meant)
        return [[c[min(slot, len(c) - 1)] for c in meant] for slot in range(count)]

    def _nouns(self, features: Features) -> tuple[Word, ...]:
        return tuple(
            Word(
                token=concept.token,
                text=f"{concept.token} {concept.noun}",
                noun=concept.noun,
                subject=subject if len(features.concepts) > 1 else None,
            )
            for subject, concepts in enumerate(features.concepts)
            for concept in self._meant(concepts)
        )

    def _meant(self, concepts: Sequence[Concept]) -> Sequence[Concept]:
        """Return those of a subject's concepts that get rows here.

        Raises
        ------
        InputError
            None does.
        """
        meant = [c for c in concepts if not self.tokens or c.token in self.tokens]
        if not meant and concepts:
            raise InputError(
                f"{self.id}: no concept has the placeholder {' or '.join(map(repr, self.tokens))} of its "
                f"setting tokens (there are: {', '.join(c.token for c in concepts)})"
            )
        return meant

    def _start(self, run: Run, concept: Concept, subject: int) -> Tensor:
        word = self.init_word if self.init == "word" and self.init_word else concept.noun
        row = run.embed_words(word).mean(dim=0).cpu()
        rng = run.init_rng(subject, f"{self.id}/{concept.name}")
        drawn = torch.randn(self.vectors, row.shape[0], generator=rng)
        fresh = self.sigma * drawn
        drawn = drawn / drawn.norm(dim=1, keepdim=True) * row.norm()
        fresh = fresh if self.sigma else drawn
        if self.init == "random":
            return fresh
        start = row.expand(self.vectors, -1) + self.noise * drawn
        if self.init == "mixed":
            start = torch.cat([fresh[: self.vectors // 2], start[self.vectors // 2 :]])
        return start
