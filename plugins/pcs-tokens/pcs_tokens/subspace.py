"""Words of few numbers: rows in a subspace of the token table (gradient-free inversion, arXiv:2304.05818).

A row is an origin and a combination of fixed directions: e = e0 + W z, of which z alone is learned. With 256
numbers in place of a row's 768 a search without gradients gets somewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import hookimpl
from pcs_core.data import Features, Fusion, TokenEdit, Words
from pcs_core.errors import RecipeError
from pcs_tokens.classes import CLASSES
from pcs_tokens.learnable import LearnableToken

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Concept, Run, Subject

BASIS, ORIGIN = "subspace.basis", "subspace.origin"
"""Features: directions [k d], and the rows [concepts n d] at which all numbers are 0."""


class SubspaceRows(TokenEdit):
    """Rows [S n d] of ``coordinates`` [S n k]: an origin [S n d] and combinations of a basis [S k d]."""

    origin: Tensor
    basis: Tensor

    def __init__(self, origin: Tensor, basis: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=origin.shape[1], hosts=hosts, stacked=True)
        self.coordinates = nn.Parameter(torch.zeros(*origin.shape[:2], basis.shape[1]))
        # features of the artifact: nothing that the edit stores
        self.register_buffer("origin", origin, persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def vocabulary(self) -> Tensor:
        """Return the rows."""
        return self.origin + torch.einsum("snk,skd->snd", self.coordinates, self.basis)


class SubspaceToken(LearnableToken):
    """Replace the placeholder by ``vectors`` rows in a subspace, whose ``dimensions`` numbers train."""

    id = "tokens.subspace"
    rowwise = True
    catalogue = ("learnable-token", "gradient-free-search")
    weighs = ("*/coordinates",)
    tiny = {"dimensions": 6, "model": "tiny.clip", "classes": ["dog", "cat", "snow"]}

    dimensions: Annotated[int, Field(ge=2, le=4096)] = 256
    """Numbers that are learned of each row, at most the row's width."""
    basis: Literal["pca", "random"] = "pca"
    """The directions: principal ones of ``span``'s rows, of length 1, or Gaussian noise with the deviation of
    these rows' elements over the root of ``dimensions`` (the paper's prior normalisation)."""
    span: tuple[str, ...] = ()
    """Words whose mean rows span the subspace; empty: all rows of the token table."""
    centred: bool = True
    """Whether the mean of the rows of ``span`` is added to the start, as an inverse transform does ("pca")."""
    begin: Literal["start", "pictures"] = "pictures"
    """Where all numbers are 0: at the start that ``init`` names, or at the mean row of ``classes``, each
    weighed by the softmax over them of the cosine of its text and a reference, averaged over references."""
    classes: tuple[str, ...] = CLASSES
    """Words that "pictures" chooses among."""
    class_templates: tuple[str, ...] = (
        "a photo of a {noun}",
        "a photo of the {noun}",
        "a picture of a {noun}",
    )
    """Texts of a class, whose features are averaged."""
    model: str = "clip.both"
    """Feature model with ``image_features`` and ``text_features`` of one space, for "pictures"."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """What cosines are divided by in the softmax; at the authors' 1 all classes weigh almost alike."""
    length: Literal["one", "noun", "kept"] = "one"
    """What norm the row of "pictures" is brought to: 1 as in the authors' code, the noun's, or what it is."""

    def words(self) -> Words:
        """Return what it writes for its own drawings, and reads."""
        reads = ("role:subject",) if self.begin == "pictures" else ()
        return Words(reads=reads, writes=(f"feature:{BASIS}", f"feature:{ORIGIN}"))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give neutral captions, the directions, and where the search begins.

        Raises
        ------
        RecipeError
            The rows span fewer directions than are asked for.
        """
        if moment != "start":
            return None
        number = next((s for s, c in enumerate(run.features.concepts) if c == subject.concepts), 0)
        rows = self._rows(run)
        basis = self._basis(run, rows)
        middle = (
            rows.mean(0) if self.centred and self.basis == "pca" else torch.zeros(rows.shape[1])
        )
        row = self._of_pictures(run, subject) if self.begin == "pictures" else None
        origin = torch.stack(
            [self._begin(run, concept, row, number) for concept in self._meant(subject.concepts)]
        )
        return Features(
            tensors={BASIS: basis, ORIGIN: origin + middle},
            keep=(BASIS, ORIGIN),
            captions=self.templates,
        )

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one stacked row block per concept slot into the vocabulary."""
        basis, origin = (features.get(key, self.id).cpu() for key in (BASIS, ORIGIN))
        edits = []
        for slot, concepts in enumerate(self._slots(features)):
            at = min(slot, origin.shape[1] - 1)
            tokens, hosts = [c.token for c in concepts], [c.noun for c in concepts]
            edits.append(SubspaceRows(origin[:, at], basis, tokens, hosts))
        return Fusion(words=self._nouns(features) if self.with_noun else (), edits=tuple(edits))

    def at_strength(self, run: Run, name: str, value: Tensor, strength: float) -> Tensor:
        """Return the numbers of a row between its origin, at 0, and what was found, at 1."""
        return strength * value

    def _rows(self, run: Run) -> Tensor:
        """Return the rows [m d] that span, in double precision."""
        if not self.span:
            return run.vocabulary().double().cpu()
        return torch.stack([run.embed_words(word).mean(dim=0) for word in self.span]).double().cpu()

    def _basis(self, run: Run, rows: Tensor) -> Tensor:
        """Return the directions [k d]."""
        count, width = self.dimensions, rows.shape[1]
        if self.basis == "random":
            rng = run.init_rng(0, f"{self.id}/basis")
            drawn = torch.randn(count, width, generator=rng)
            return drawn * float(rows.std()) / count**0.5
        if count > min(width, len(rows) - 1):
            raise RecipeError(
                f"{self.id}: dimensions is {count}, and {len(rows)} rows of width {width} have "
                f"{min(width, len(rows) - 1)} principal directions: lower it"
            )
        away = rows - rows.mean(0)
        _, vectors = torch.linalg.eigh(away.T @ away)
        chosen = vectors.flip(1)[:, :count].T
        # the sign of a direction is arbitrary: its largest element is positive
        sign = chosen.gather(1, chosen.abs().argmax(1, keepdim=True)).sign()
        return (chosen * sign).float()

    def _begin(self, run: Run, concept: Concept, row: Tensor | None, number: int) -> Tensor:
        """Return the rows [n d] of a concept before any step; ``row`` [d] is that of the pictures."""
        if row is None:
            return self._start(run, concept, number)
        if self.length != "kept":
            noun = run.embed_words(concept.noun).mean(dim=0)
            row = row / row.norm() * (1.0 if self.length == "one" else noun.norm().item())
        return row.expand(self.vectors, -1).clone()

    def _of_pictures(self, run: Run, subject: Subject) -> Tensor:
        """Return the mean row [d] of the classes, weighed by how near their texts are to the references."""
        shown = [e.image for e in run.features.examples if e.role == "subject"]
        pictures: Any = shown or list(subject.images)
        model = run.feature_model(self.model)
        texts = [
            model.text_features([t.replace("{noun}", word) for t in self.class_templates]).mean(0)
            for word in self.classes
        ]
        said = F.normalize(torch.stack(texts).float(), dim=-1)
        seen = torch.cat([model.image_features(picture[None]) for picture in pictures]).float()
        share = (seen @ said.T / self.temperature).softmax(-1)
        rows = torch.stack([run.embed_words(word).mean(dim=0) for word in self.classes])
        return (share.to(rows) @ rows).mean(0).cpu()
