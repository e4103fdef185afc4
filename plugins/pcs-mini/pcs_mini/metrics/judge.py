"""The judge: which trained concepts a picture shows and where, in which style, at which place.

It is a classifier of cells: every eighth of the picture across and down says what stands there.
A picture with several subjects is read cell by cell, so that each counts, whatever its size. It was
trained on renders alone and has seen no generated picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pcs_core.errors import nearest
from pcs_mini.metrics import stored
from pcs_mini.metrics.encoding import subject_vector, tokens_of
from pcs_mini.metrics.stored import MetricError
from pcs_mini.metrics.trunk import CELLS, Trunk, prepare


@dataclass(frozen=True)
class Reading:
    """What the judge sees in `n` pictures; shares are 0..1."""

    presence: Tensor
    """``[n, concepts]``: how sure the surest cell is of a concept."""
    cells: Tensor
    """``[n, concepts, 8, 8]``: the same per cell, row by row."""
    styles: Tensor
    """``[n, styles]``, over the cells of subjects."""
    places: Tensor
    """``[n, places]``."""


class JudgeNet(nn.Module):
    """Trunk and heads: subject or not, concept and style of a cell, place of the picture."""

    def __init__(self, concepts: int, styles: int, places: int) -> None:
        super().__init__()
        self.trunk = Trunk()
        width = self.trunk.width
        self.subject_head = nn.Conv2d(width, 1, 1)
        self.concept_head = nn.Linear(width, concepts)
        self.style_head = nn.Linear(width, styles)
        self.place_head = nn.Linear(2 * width, places)

    def places(self, cells: Tensor) -> Tensor:
        """Logits ``[n, places]`` of a map ``[n, width, 8, 8]``."""
        return self.place_head(torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1))


class Judge:
    """Feature model ``mini.judge``, with its names. Pictures are ``[n, 3, h, w]`` in 0..1 of any size."""

    def __init__(self, net: JudgeNet, names: Mapping[str, Sequence[str]]) -> None:
        """`names` of each ``concept``, ``style`` and ``place``, in the order of the heads."""
        self.net = net
        self.names = {what: tuple(names[what]) for what in ("concept", "style", "place")}

    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Everything the judge can say of a batch of pictures."""
        x = prepare(images.to(self.net.subject_head.weight.device))
        cells = self.net.trunk(x)
        subject = torch.sigmoid(self.net.subject_head(cells)).flatten(2).mT
        each = cells.flatten(2).mT
        concept = self.net.concept_head(each).softmax(-1) * subject
        style = (self.net.style_head(each).softmax(-1) * subject).sum(1)
        return Reading(
            presence=concept.amax(1),
            cells=concept.mT.unflatten(2, (CELLS, CELLS)),
            styles=style / subject.sum(1).clamp_min(1e-6),
            places=self.net.places(cells).softmax(-1),
        )

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """``[n, 64, 240]``: a token a cell, for adapters (feature model ``mini.image``)."""
        return tokens_of(self.net.trunk, prepare(images.to(self.net.subject_head.weight.device)))

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """``[n, 588]``: what stands where the judge sees a subject, and how it looks."""
        x = prepare(images.to(self.net.subject_head.weight.device))
        tokens = tokens_of(self.net.trunk, x)
        cells = tokens[..., : self.net.trunk.width].mT.unflatten(2, (CELLS, CELLS))
        subject = torch.sigmoid(self.net.subject_head(cells)).flatten(1)
        return subject_vector(x, tokens, subject)

    def index(self, what: str, name: str) -> int:
        """Column of a ``concept``, ``style`` or ``place``.

        Raises
        ------
        MetricError
            If the judge has not learned that name.
        """
        try:
            return self.names[what].index(name)
        except ValueError:
            hint = nearest(name, self.names[what])
            raise MetricError(f"the evaluation model knows no {what} {name!r}{hint}") from None

    def concepts_match(self, reading: Reading, concepts: Sequence[Sequence[str]]) -> list[bool]:
        """Whether the surest concepts of each picture are exactly the wanted ones."""
        matches = []
        for row, names in zip(reading.presence, concepts, strict=True):
            columns = {self.index("concept", name) for name in names}
            matches.append(set(row.topk(len(columns)).indices.tolist()) == columns)
        return matches

    def top(self, what: str, reading: Reading) -> list[str]:
        """The surest ``concept``, ``style`` or ``place`` of each picture."""
        scores = {"concept": reading.presence, "style": reading.styles, "place": reading.places}
        return [self.names[what][i] for i in scores[what].argmax(1).tolist()]

    def place_accuracy(self, images: Tensor, places: Sequence[str]) -> float:
        """Share of pictures read as at their place (a name of ``mini.places``), 0..1.

        Raises
        ------
        ValueError
            If there is not one place per picture.
        """
        if len(images) != len(places):
            raise ValueError(f"{len(images)} pictures but {len(places)} places: one per picture")
        predicted = self.top("place", self.read(images))
        return sum(a == b for a, b in zip(predicted, places, strict=True)) / max(1, len(places))


def open_judge(folder: Path | None = None, device: str = "cpu") -> Judge:
    """The judge of a folder of metrics, the shipped one if None."""
    net, config = stored.read("judge", folder, lambda c: build(c["names"]))
    return Judge(net.to(device), config["names"])


def build(names: Mapping[str, Sequence[str]]) -> JudgeNet:
    """An untrained judge of these names."""
    return JudgeNet(*(len(names[what]) for what in ("concept", "style", "place")))


@cache
def load() -> Judge:
    """The shipped judge, opened once."""
    return open_judge()


class PlaceEye:
    """Feature model ``mini.backdrop``: pictures are alike as far as the judge reads the same place."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def image_features(self, images: Tensor) -> Tensor:
        """``[n, places]`` of unit norm: roots of the places' shares, so that a cosine is their overlap."""
        return self.judge.read(images).places.sqrt()


@cache
def load_places() -> PlaceEye:
    """What the shipped judge says of places, opened once."""
    return PlaceEye(load())
