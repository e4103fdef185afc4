"""Words for attributes of one picture, each read in layers and at noise levels of its own (MATTE,
arXiv:2311.11919).

Colour and style are said in the same layers, colour and layout at the same noise levels: on both axes together
each of four words has a cell that no other has (sections 3 and 4). Outside of its cell a word says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, Loss, TokenEdit, Word, Words
from pcs_core.errors import CapabilityError, RecipeError
from pcs_tokens.templates import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import Concept, FitStep, Run, Site, Subject

Layers = Literal["coarse", "fine", "all"]
Cell = tuple[str, Layers, float, float]
CELLS: tuple[Cell, ...] = (
    ("color", "fine", 0.5, 1.0),
    ("object", "coarse", 0.0, 0.5),
    ("layout", "coarse", 0.5, 1.0),
    ("style", "fine", 0.0, 0.5),
)
"""Of each attribute the layers and the noise levels (1 = pure noise) in which its word is read."""


class CellRows(TokenEdit):
    """Rows [S 1 d] of an attribute, read in ``layers`` (a truth each) from noise level ``least`` to
    ``most``.
    """

    timed = True
    blank: Tensor
    layers: Tensor

    def __init__(
        self,
        start: Tensor,
        blank: Tensor,
        layers: Sequence[bool],
        levels: tuple[float, float],
        tokens: list[str],
        hosts: list[str],
    ) -> None:
        super().__init__(tokens, count=1, hosts=hosts, stacked=True)
        self.rows = nn.Parameter(start.clone())
        self.least, self.most = levels
        self.register_buffer("blank", blank, persistent=False)
        self.register_buffer("layers", torch.tensor(layers), persistent=False)

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows [b layers 1 d]: the word in its cell, a blank elsewhere."""
        count = 1 if time is None else len(time)
        which = torch.zeros(count, dtype=torch.long) if subject is None else subject
        rows = self.rows[which]
        level = torch.full((len(which),), 0.5, device=rows.device) if time is None else time
        # the last level of all belongs to the cell that ends there
        inside = (level >= self.least) & ((level < self.most) | (level.new_tensor(self.most) == 1))
        read = inside[:, None] & self.layers[None]
        return torch.where(read[..., None, None], rows[:, None], self.blank)


class AttributeWords(Technique):
    """Replace the placeholder by a word for each attribute, read in a cell of layers and noise levels.

    "<dog>" stands for "<dog.color> <dog.object> <dog.layout> <dog.style>", each a learned row.
    """

    id = "tokens.attributes"
    rowwise = True
    catalogue = ("disentangled-tokens", "layerwise-token", "timestep-token", "embedding-constraint")
    tiny: ClassVar[Mapping[str, Any]] = {  # at any one noise level each word is read
        "cells": [
            ["color", "fine", 0.0, 1.0],
            ["object", "coarse", 0.0, 1.0],
            ["layout", "coarse", 0.0, 1.0],
            ["style", "fine", 0.0, 1.0],
        ]
    }

    cells: tuple[Cell, ...] = CELLS
    """Of each attribute: its name, its layers ("coarse", "fine" or "all"), the least and the largest noise
    level."""
    blank: str = "and"
    """The word that stands where an attribute is not read."""
    starts: tuple[tuple[str, str], ...] = (("object", "{noun}"),)
    """The words that attributes start from; ``{noun}`` is the class noun. Others start from their own names."""
    pair: tuple[str, str] = ("color", "style")
    """Attributes that are kept apart, as they are read in the same layers."""
    apart: Annotated[float, Field(ge=0.0)] = 0.0
    """Factor of the squared cosine of the two ("attributes.apart"); 0: there is none."""
    templates: tuple[str, ...] = TEMPLATES
    """Captions of references that have none; ``{token}`` stands for the subject."""

    def words(self) -> Words:
        """Return nothing: it meets no other technique by name."""
        return Words()

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put a stacked row for each attribute into the vocabulary.

        Raises
        ------
        CapabilityError
            The denoiser has no cross-attention.
        """
        sites = run.sites("cross")
        if not sites:
            raise CapabilityError(f"{self.id}: the denoiser has no cross-attention site")
        concepts = [of[0] for of in features.concepts]
        blank = run.embed_words(self.blank).mean(dim=0).cpu()
        edits = []
        for name, layers, least, most in self.cells:
            start = torch.stack([self._start(run, name, concept) for concept in concepts])
            tokens = [part_of(concept.token, name) for concept in concepts]
            hosts = [concept.noun for concept in concepts]
            read = in_layers(sites, layers)
            edits.append(CellRows(start, blank, read, (least, most), tokens, hosts))
        return Fusion(
            edits=tuple(edits),
            words=tuple(
                Word(
                    concept.token,
                    " ".join(part_of(concept.token, cell[0]) for cell in self.cells),
                    subject=number if len(concepts) > 1 else None,
                )
                for number, concept in enumerate(concepts)
            ),
        )

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the squared cosine of the pair, for each row that of its subject.

        Raises
        ------
        RecipeError
            The pair names an attribute that there is not.
        """
        if not self.apart:
            return None
        known = [cell[0] for cell in self.cells]
        if unknown := [name for name in self.pair if name not in known]:
            raise RecipeError(
                f"{self.id}: pair names {unknown[0]!r}, and the cells are {', '.join(known)}"
            )
        first, second = (
            next(iter(run.trained(f"*/*.{name}>/rows").values()))[:, 0] for name in self.pair
        )
        value = F.cosine_similarity(first.float(), second.float(), dim=-1).square()
        return Loss("attributes.apart", value[step.batch.subject], weight=self.apart)

    def _start(self, run: Run, name: str, concept: Concept) -> Tensor:
        """Return the row [1 d] of an attribute before any step."""
        word = dict(self.starts).get(name, name).replace("{noun}", concept.noun)
        return run.embed_words(word).mean(dim=0, keepdim=True).cpu()


def part_of(token: str, name: str) -> str:
    """Return the placeholder of an attribute: "<dog.color>" of "<dog>"."""
    return f"<{token.strip('<>')}.{name}>"


def in_layers(sites: Sequence[Site], layers: Layers) -> list[bool]:
    """Return of each cross-attention site whether it is one of ``layers``: the finer half of the grids is
    fine.
    """
    scales = sorted({site.scale for site in sites})
    half = scales[(len(scales) - 1) // 2]
    if layers == "all" or len(scales) == 1:
        return [True] * len(sites)
    return [(site.scale <= half) == (layers == "fine") for site in sites]
