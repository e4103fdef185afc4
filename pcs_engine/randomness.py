"""Seeds derived from names, so that a subject draws the same numbers alone or among others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def derive_seed(seed: int, *names: object) -> int:
    """Return a 63-bit seed from ``seed`` and ``names``; the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> Generator:
    """Return a CPU generator for ``names`` under ``seed``. CPU, so that devices agree."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def step_seeds(rngs: Sequence[Generator]) -> Tensor:
    """Return a 62-bit seed [n] for each generator as it stands now, drawing from none."""
    states = [hashlib.sha256(rng.get_state().numpy().tobytes()).digest() for rng in rngs]
    return torch.tensor([int.from_bytes(state[:8], "big") >> 2 for state in states])
