"""What a pre-training needs of its records: made once, kept, and found again after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pcs_engine.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = 16
"""Records that are made and stored together: the autoencoder likes batches."""


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """What a step needs of a record: its picture encoded, its references asked about, neither kept.

    ``latents`` [c h w] and ``features`` are in half precision, ``extra`` as the record has it,
    ``regions`` [1 h w] its masks by name at the size of the latents.
    """

    latents: Tensor
    features: Mapping[str, Tensor]
    caption: str
    phrases: tuple[str, ...]
    extra: Mapping[str, Tensor]
    regions: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Reading:
    """The records of one process, in an order of its own: each once, then all again in another order.

    ``make`` gives what a step needs of records by their index. It is asked when they are first due, and
    with ``work`` never again: a resumed training reads its files. ``identity`` is what they depend on.
    ``chunks`` are those read so far, :data:`TOGETHER` records each, by number.
    """

    count: int
    make: Callable[[Sequence[int]], Sequence[EncodedRecord]]
    seed: int = 0
    rank: int = 0
    processes: int = 1
    work: Path | None = None
    identity: Mapping[str, object] = field(default_factory=dict)
    chunks: dict[int, list[EncodedRecord]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = torch.randperm(self.count, generator=generator(self.seed, "records")).tolist()
        # no two processes make the same record
        self.order: list[int] = order[self.rank :: self.processes] or order
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def rows(self, start: int, count: int) -> list[tuple[int, EncodedRecord]]:
        """Return rows ``start`` to ``start + count`` of the training, each with its record's index."""
        rows = []
        for row in range(start, start + count):
            epoch, at = divmod(row, len(self.order))
            place = self._shuffled(epoch)[at] if epoch else at
            chunk, within = divmod(place, TOGETHER)
            if chunk not in self.chunks:
                self.chunks[chunk] = self._open(chunk)
            rows.append((self.order[place], self.chunks[chunk][within]))
        return rows

    def _shuffle(self, epoch: int) -> list[int]:
        rng = generator(self.seed, "records", str(epoch), str(self.rank))
        places: list[int] = torch.randperm(len(self.order), generator=rng).tolist()
        return places

    def _open(self, chunk: int) -> list[EncodedRecord]:
        indices = self.order[chunk * TOGETHER : (chunk + 1) * TOGETHER]
        if self.work is None:
            return list(self.make(indices))
        from pcs_core.errors import ArtifactError
        from pcs_core.storage.checkpoint import read_checkpoint, write_checkpoint

        name = f"records-{self.rank}-{chunk:05}"
        try:
            stored = read_checkpoint(self.work, name)
        except ArtifactError:  # nothing in it is lost: it is made again
            stored = None
        state: dict[str, object] = {**self.identity, "indices": indices}
        if stored is not None and {k: stored[1].get(k) for k in state} == state:
            return _unpack(*stored)
        made = list(self.make(indices))
        texts = {"texts": [[record.caption, *record.phrases] for record in made]}
        write_checkpoint(self.work, name, _pack(made), {**state, **texts})
        return made


def _pack(made: Sequence[EncodedRecord]) -> dict[str, Tensor]:
    tensors = {}
    for i, record in enumerate(made):
        tensors[f"{i}/latents"] = record.latents
        tensors |= {f"{i}/features/{k}": v for k, v in record.features.items()}
        tensors |= {f"{i}/extra/{k}": v for k, v in record.extra.items()}
        tensors |= {f"{i}/regions/{k}": v for k, v in record.regions.items()}
    return tensors


def _unpack(tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> list[EncodedRecord]:
    texts: Sequence[Sequence[str]] = state["texts"]  # type: ignore[assignment]

    def part(i: int, what: str) -> dict[str, Tensor]:
        start = f"{i}/{what}/"
        return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

    return [
        EncodedRecord(
            latents=tensors[f"{i}/latents"],
            features=part(i, "features"),
            caption=caption,
            phrases=tuple(phrases),
            extra={k: v for k, v in part(i, "extra").items() if not _is_region(k)},
            regions={
                # written before regions had a place of their own
                **{k: v for k, v in part(i, "extra").items() if _is_region(k)},
                **part(i, "regions"),
            },
        )
        for i, (caption, *phrases) in enumerate(texts)
    ]


def _is_region(key: str) -> bool:
    return key.startswith("mask.concept.")
