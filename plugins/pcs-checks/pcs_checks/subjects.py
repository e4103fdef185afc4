"""Random subjects for checks: the properties checked do not depend on what is in the pictures."""

from __future__ import annotations

import torch

from pcs_core.data import Concept, Subject


def random_subject(name: str, noun: str = "dog", *, seed: int = 0, count: int = 2) -> Subject:
    """Return a subject of ``count`` random pictures [3 40 48], its token ``"<name>"``."""
    rng = torch.Generator().manual_seed(seed)
    return Subject(
        name=name,
        concepts=(Concept(name, f"<{name}>", noun),),
        images=tuple(torch.rand(3, 40, 48, generator=rng) for _ in range(count)),
        captions=(None,) * count,
    )
