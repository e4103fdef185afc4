"""Every part of the concepts of one picture is learned, together and alone.

Union sampling of Break-A-Scene (arXiv:2305.16311, section 3.2, and the authors' `train.py`): a step shows a
random non-empty set of the concepts, in the caption and in the masks alike.
"""

from __future__ import annotations

from itertools import combinations
from math import comb, lcm
from typing import TYPE_CHECKING

import torch

from pcs_core import Technique, hookimpl
from pcs_core.data import Features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import Concept, Example, Run, Subject


class UnionSampling(Technique):
    """Add each reference again for the sets of its masked concepts.

    Of n concepts every size from 1 to n is drawn equally often, and every set of a size, as the authors draw a
    number of concepts first and then which. The reference itself shows all of them. Tokens of a set stand in
    every rotation of their order. Needs masks by concept; a picture with one concept is not added.
    """

    id = "data.union_sampling"
    rowwise = True
    reads = ("role:subject", "region:mask.concept.*")
    writes = ("role:subject", "region:mask.concept.*")
    catalogue = ("disentangled-tokens",)
    neutral = {"subsets": False, "flip": False}

    subsets: bool = True
    """Whether smaller sets of the concepts are shown."""
    flip: bool = True
    """Whether each is added mirrored too: half of what is drawn."""
    caption: str = "a photo of {tokens}"
    """Caption of a set; ``{tokens}`` are its tokens, "and" between."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Enumerate the sets of each reference."""
        if moment != "start":
            return None
        shown = [e for e in run.features.examples if e.role == "subject"]
        examples: list[Example] = []
        for example in shown:
            slots = [
                k for k in range(len(subject.concepts)) if f"mask.concept.{k}" in example.regions
            ]
            sets = self._sets(example, slots, subject.concepts) if self.subsets else []
            examples += sets
            if self.flip:
                image = example.image.flip(
                    -1
                ).contiguous()  # one picture, so that it is encoded once
                examples += [mirrored(e, image) for e in (example, *sets)]
        return Features(examples=tuple(examples)) if examples else None

    def _sets(
        self, example: Example, slots: Sequence[int], concepts: Sequence[Concept]
    ) -> list[Example]:
        """Return the examples that stand beside ``example``, which is one of those of the whole set."""
        if len(slots) < 2:
            return []
        counts = [comb(len(slots), size) for size in range(1, len(slots) + 1)]
        each = lcm(*counts)  # examples of a size, so that the sizes are alike
        parts = [
            self._only(example, chosen, concepts, rotations(chosen))
            for size, count in enumerate(counts[:-1], 1)
            for chosen in combinations(slots, size)
            for _ in range(each // count)
        ]
        orders = rotations(slots)
        return parts + [
            self._only(example, slots, concepts, (orders[i % len(orders)],)) for i in range(1, each)
        ]

    def _only(
        self,
        example: Example,
        chosen: Sequence[int],
        concepts: Sequence[Concept],
        orders: Sequence[Sequence[int]],
    ) -> Example:
        masks = {f"mask.concept.{k}": example.regions[f"mask.concept.{k}"] for k in chosen}
        others = {k: v for k, v in example.regions.items() if not k.startswith("mask.concept.")}
        union = torch.stack(list(masks.values())).amax(0)
        named = [" and ".join(concepts[k].token for k in order) for order in orders]
        return example.with_(
            captions=tuple(self.caption.replace("{tokens}", tokens) for tokens in named),
            concepts=tuple(concepts[k].name for k in chosen),
            mask=None if example.mask is None else example.mask * union,
            regions={**others, **masks},
        )


def rotations(chosen: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return ``chosen`` beginning with each of its members once."""
    return tuple((*chosen[i:], *chosen[:i]) for i in range(len(chosen)))


def mirrored(example: Example, image: Tensor) -> Example:
    """Return the example with the mirrored picture ``image`` and every mask flipped left to right."""
    regions = {k: v.flip(-1) for k, v in example.regions.items()}
    mask = None if example.mask is None else example.mask.flip(-1)
    return example.with_(image=image, mask=mask, regions=regions)
