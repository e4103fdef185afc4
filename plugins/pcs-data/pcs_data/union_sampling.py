"""Every part of the concepts of one picture is learned, together and alone.

Union sampling of Break-A-Scene (arXiv:2305.16311, section 3.2): a step shows a random non-empty set of the
concepts, in the caption and in the masks alike.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from pcs_core import Technique, hookimpl
from pcs_core.data import Features

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pcs_core.data import Concept, Example, Run, Subject


class UnionSampling(Technique):
    """Add each reference once for every smaller set of its masked concepts.

    The reference itself shows all of them, so that all sets are drawn equally often. Needs masks by concept;
    a picture with one concept is not added.
    """

    id = "data.union_sampling"
    reads = ("role:subject", "region:mask.concept.*")
    writes = ("role:subject", "region:mask.concept.*")
    catalogue = ("disentangled-tokens",)
    neutral = {"subsets": False, "flip": False}

    subsets: bool = True
    """Whether smaller sets of the concepts are shown."""
    flip: bool = True
    """Whether each is added mirrored too."""
    caption: str = "a photo of {tokens}"
    """Caption of a set; ``{tokens}`` are its tokens, "and" between."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Enumerate the sets of each reference."""
        if moment != "start":
            return None
        shown = [e for e in run.features.examples if e.role == "subject"]
        found: list[Example] = []
        for example in shown:
            slots = [
                k for k in range(len(subject.concepts)) if f"mask.concept.{k}" in example.regions
            ]
            sets = self._sets(example, slots, subject.concepts) if self.subsets else []
            found += sets
            if self.flip:
                found += [mirrored(e) for e in (example, *sets)]
        return Features(examples=tuple(found)) if found else None

    def _sets(
        self, example: Example, slots: Sequence[int], concepts: Sequence[Concept]
    ) -> list[Example]:
        return [
            self._only(example, chosen, concepts)
            for size in range(1, len(slots))
            for chosen in combinations(slots, size)
        ]

    def _only(
        self, example: Example, chosen: Iterable[int], concepts: Sequence[Concept]
    ) -> Example:
        kept = [(f"mask.concept.{k}", concepts[k]) for k in chosen]
        masks = {key: example.regions[key] for key, _ in kept}
        others = {k: v for k, v in example.regions.items() if not k.startswith("mask.concept.")}
        union = torch.stack(list(masks.values())).amax(0)
        tokens = " and ".join(concept.token for _, concept in kept)
        return example.with_(
            captions=(self.caption.replace("{tokens}", tokens),),
            concepts=tuple(concept.name for _, concept in kept),
            mask=None if example.mask is None else example.mask * union,
            regions={**others, **masks},
        )


def mirrored(example: Example) -> Example:
    """Return the example with its picture and every mask flipped left to right."""
    regions = {k: v.flip(-1) for k, v in example.regions.items()}
    mask = None if example.mask is None else example.mask.flip(-1)
    return example.with_(image=example.image.flip(-1).contiguous(), mask=mask, regions=regions)
