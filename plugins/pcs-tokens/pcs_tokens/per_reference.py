"""Words of each reference alone, which take up what is no part of the subject.

The contexts of ICO (image-specific context optimization, ECCV 2024, section 3.3) and the pose and background
words of DETEX (arXiv:2312.11826, section 3.2). A picture's caption holds its own words, so that the subject's
word, which all captions share, need not say what one picture alone shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, TokenEdit, Words
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run, Subject


class OwnRows(TokenEdit):
    """Rows [n d] of one reference."""

    def __init__(self, start: Tensor, token: str, host: str) -> None:
        super().__init__([token], count=len(start), hosts=[host], mode="fit")
        self.rows = nn.Parameter(start.clone())

    def vocabulary(self) -> Tensor:
        """Return the rows [1 n d]."""
        return self.rows[None]


class Mapper(nn.Module):
    """Rows [n d] of a feature [w]: two layers, whose last begins at zero, added to a start."""

    start: Tensor

    def __init__(self, start: Tensor, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.last = nn.Linear(hidden, start.numel())
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("start", start, persistent=False)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the rows."""
        said: Tensor = self.last(F.leaky_relu(self.first(feature.to(self.first.weight.dtype))))
        return self.start + said.view_as(self.start)


class MappedRows(TokenEdit):
    """Rows [n d] that a network says of one reference. Of edits that share it the first one owns it."""

    feature: Tensor

    def __init__(
        self, mapper: Mapper, feature: Tensor, token: str, host: str, *, owns: bool
    ) -> None:
        super().__init__([token], count=len(mapper.start), hosts=[host], mode="fit")
        self.register_buffer("feature", feature, persistent=False)
        if owns:
            self.mapper = mapper
        self._shared = [mapper]  # in a list it is no submodule

    def vocabulary(self) -> Tensor:
        """Return the rows [1 n d]."""
        rows: Tensor = self._shared[0](self.feature)
        return rows[None]


class ReferenceWords(Technique):
    """Give each reference rows of its own, which captions name "<``word``.0>", "<``word``.1>" and so on.

    Another technique's captions name them, as "a {token} <context.{reference}>": `{reference}` is the number of
    the picture. They act in the fit alone: a drawing knows no such word.
    """

    id = "tokens.per_reference"
    rowwise = True
    stacks_subjects = False
    catalogue = ("disentangled-tokens", "image-encoder", "placeholder-fusion")
    tiny = {"model": "tiny.image", "hidden": 8, "start": "cat"}
    tiny_beside = {"tokens.rare": {"identifier": "<context.0> <context.1>"}}  # names its words

    word: str = "context"
    """What they are called."""
    start: str = ""
    """Words whose rows they start from, a vector each; empty: noise."""
    vectors: Annotated[int, Field(ge=1, le=32)] = 1
    """Rows of each reference that starts as noise."""
    std: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """Standard deviation of each element of that noise."""
    source: Literal["rows", "mapper"] = "rows"
    """Whether the rows themselves train, or a network that says them of the reference's feature."""
    model: str = "clip.image"
    """Feature model with ``pooled``, for "mapper"."""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 1024
    """Hidden units of the network."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it."""
        mapped = ("image-encoder", "placeholder-fusion") if self.source == "mapper" else ()
        return ("disentangled-tokens", *mapped)

    @property
    def _key(self) -> str:
        return f"per_reference.{self.word}"

    def words(self) -> Words:
        """Return what it writes for its own use when the artifact is opened."""
        return Words(writes=(f"feature:{self._key}",))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Keep a row for each reference: its feature, or nothing but its place."""
        if moment != "start":
            return None
        if not subject.images:
            raise RecipeError(
                f"{self.id}: subject {subject.name!r} has no pictures to have words of"
            )
        encoded = torch.zeros(len(subject.images), 1)
        if self.source == "mapper":
            shown = [e.image for e in run.features.examples if e.role == "subject"]
            encoder: Any = run.feature_model(self.model)
            encoded = torch.cat([encoder.pooled(picture[None]) for picture in shown]).float().cpu()
        return Features(tensors={self._key: encoded}, keep=(self._key,))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the rows of each reference into the vocabulary."""
        encoded = features.get(self._key, self.id)[0].cpu()
        host = features.concepts[0][0].noun
        tokens = [f"<{self.word}.{i}>" for i in range(len(encoded))]
        if self.source == "rows":
            edits = [OwnRows(self._start(run, token), token, host) for token in tokens]
            return Fusion(edits=tuple(edits))
        with run.seeded(f"{self.id}/{self.word}"):
            mapper = Mapper(self._start(run, f"<{self.word}>"), encoded.shape[1], self.hidden)
        return Fusion(
            edits=tuple(
                MappedRows(mapper, feature, token, host, owns=not i)
                for i, (feature, token) in enumerate(zip(encoded, tokens, strict=True))
            )
        )

    def _start(self, run: Run, token: str) -> Tensor:
        """Return the rows [n d] before any step."""
        if self.start:
            return run.embed_words(self.start).cpu()
        width = run.embed_words("a").shape[-1]
        rng = run.init_rng(0, f"{self.id}/{token}")
        return self.std * torch.randn(self.vectors, width, generator=rng)
