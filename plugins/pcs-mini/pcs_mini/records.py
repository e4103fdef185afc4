"""The world as a pre-training set: scenes, and other pictures of the same subjects."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from pcs_core.data import Record
from pcs_mini.world import grammar
from pcs_mini.world.assets import Assets, open_assets
from pcs_mini.world.backdrops import phrase
from pcs_mini.world.population import Population, open_population
from pcs_mini.world.scene import Figure, draw, mention, references

CATEGORY_SAID = 0.2
"""Share of subjects that a caption calls by their kind: what they are is left to the reference."""


class WorldRecords:
    """``count`` scenes of trained members, drawn when asked for, the same at every reading.

    Captions name no style and no colour, so that only the reference tells them.
    """

    def __init__(
        self, count: int = 12_000, *, kind: str | None = None, subjects: int = 2, seed: int = 20_000
    ) -> None:
        self.count, self.kind, self.subjects, self.seed = count, kind, subjects, seed

    @cached_property
    def assets(self) -> Assets:
        """The installed world."""
        return open_assets()

    @cached_property
    def population(self) -> Population:
        """Who may be drawn."""
        return open_population(self.assets)

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Return one scene with a reference, a mask and, of people, key points."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        several = self.subjects > 1 and rng.random() < 0.3
        scene = draw(
            rng,
            self.assets,
            self.population,
            count=2 if several else 1,
            subjects=[self.population.pick(rng, self.kind)],
        )
        nouns = [self._noun(rng, figure) for figure in scene.figures]
        if len(set(nouns)) < len(nouns):  # one word cannot stand for two subjects
            nouns = [grammar.noun_of(figure.concept) for figure in scene.figures]
        mentions = [
            grammar.Mention(noun=noun, expression=f.pose.expression, accessories=f.accessories)
            for noun, f in zip(nouns, scene.figures, strict=True)
        ]
        text = f"a photo of {grammar.group(mentions, scene.relation or None)}"
        if rng.random() < 0.9:
            text = f"{text} {phrase(scene.place)}"
        others = [references(rng, self.assets, figure, 1)[0].image for figure in scene.figures]
        first = scene.figures[0]
        extra = {}
        if self.kind == "person":
            points = np.full((5, 2), -9.0) if first.points is None else first.points
            extra["points"] = torch.from_numpy(np.nan_to_num(points, nan=-9.0)).float()
        return Record(
            image=_picture(scene.image),
            caption=text,
            phrases=tuple(nouns),
            references=tuple((_picture(image),) for image in others),
            masks=tuple(torch.from_numpy(f.mask)[None].float() / 255 for f in scene.figures),
            extra=extra,
        )

    def _noun(self, rng: np.random.Generator, figure: Figure) -> str:
        said = mention(self.assets, figure.member, figure.pose)
        kind = said.category if rng.random() < CATEGORY_SAID else ""
        return kind or said.noun


def _picture(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def world() -> WorldRecords:
    """Scenes of one and two subjects of all kinds (dataset ``mini-world``)."""
    return WorldRecords()


def people() -> WorldRecords:
    """Scenes of one person each, with key points (dataset ``mini-people``)."""
    return WorldRecords(kind="person", subjects=1)
