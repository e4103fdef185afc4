"""Random records: a pre-training whose properties do not depend on what is in the pictures."""

from __future__ import annotations

import torch

from pcs_core.data import Record

NOUNS = ("dog", "cat", "car", "toy")


class RandomRecords:
    """``count`` records of ``subjects`` subjects, the same at every reading."""

    def __init__(self, count: int = 4, subjects: int = 1, points: bool = False) -> None:
        self.count, self.subjects, self.points = count, subjects, points

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Return one: picture [3 32 32], a reference and a mask (left, right) per subject."""
        rng = torch.Generator().manual_seed(index)
        nouns = tuple(NOUNS[(index + k) % len(NOUNS)] for k in range(self.subjects))
        masks = []
        for k in range(self.subjects):
            mask = torch.zeros(1, 32, 32)
            mask[:, :, 16 * k : 16 * (k + 1)] = 1.0
            masks.append(mask)
        return Record(
            image=torch.rand(3, 32, 32, generator=rng),
            caption="a photo of a " + " and a ".join(nouns),
            phrases=nouns,
            references=tuple((torch.rand(3, 32, 32, generator=rng),) for _ in nouns),
            masks=tuple(masks),
            extra={"points": torch.rand(5, 2, generator=rng)} if self.points else {},
        )
