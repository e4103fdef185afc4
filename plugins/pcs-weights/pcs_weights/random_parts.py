"""What an update leaves out at random while it is fitted: single elements, or whole steps.

Each draw follows from the row's seed of the step (:data:`pcs_core.data.SEED`) and a name, so that a subject
draws alike alone and among others, a fit that goes on draws what it would have drawn, and activations that are
computed again in backward are the same.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from zlib import crc32

import torch

from pcs_core.data import SEED
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning


def seeds_of(cond: Conditioning | None, what: str) -> list[int]:
    """Return the seed of each row's step, for ``what`` (named in the error).

    Raises
    ------
    CapabilityError
        These rows are of no training step.
    """
    seeds = None if cond is None else cond.extra.get(SEED)
    if seeds is None:
        raise CapabilityError(
            f"{what} draws at random for each step of a fit, and these rows are of none: "
            "set `dropout` and `off` to 0 for a network that is asked beside the steps"
        )
    return seeds.tolist()


def dropped(x: Tensor, seeds: list[int], name: str, share: float) -> Tensor:
    """Return ``x`` with a ``share`` of its elements zero and the others divided by 1 - share.

    The rows [n ...] of ``x`` are those of ``seeds`` [b], n / b of them for each (frames in the batch). Rows of
    one seed are drawn one after the other. Dropout: arXiv:1207.0580, in its inverted form.
    """
    kept, generators = [], {s: _generator(s, name, x.device) for s in dict.fromkeys(seeds)}
    for seed, rows in zip(seeds, x.chunk(len(seeds)), strict=True):
        drawn = torch.rand(rows.shape, generator=generators[seed], device=x.device)
        kept.append(drawn >= share)
    return x * torch.cat(kept).to(x.dtype) / (1 - share)


def off_rows(seeds: list[int], name: str, share: float) -> list[bool]:
    """Return for each row whether it is one of the ``share`` of steps in which ``name`` is off."""
    return [random.Random(_mixed(seed, f"{name}/off")).random() < share for seed in seeds]


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(_mixed(seed, name))


def _mixed(seed: int, name: str) -> int:
    return (seed ^ (crc32(name.encode()) << 30)) & (2**62 - 1)
