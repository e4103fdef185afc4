"""Several subjects of one pre-trained system in one artifact: their features side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


def join(artifacts: Sequence[Personalization], backbone: Backbone) -> Personalization:
    """Return one personalization whose prompts may name every subject.

    Each subject takes a slot of the features that ``encoders.image`` or ``encoders.face`` made.
    Nothing trains.

    Raises
    ------
    InputError
        Subjects of different recipes or adapters, a fitted subject, or more of them than slots.
    """
    first = artifacts[0]
    for artifact in artifacts[1:]:
        if artifact.recipe.hash != first.recipe.hash or artifact.extra != first.extra:
            raise InputError(
                f"{first.subject!r} and {artifact.subject!r} were made by different recipes or "
                "adapters: fit both with the same command"
            )
    if any(artifact.tensors for artifact in artifacts):
        raise InputError(
            "join is for pre-trained systems: what a fit trained cannot stand side by side"
        )
    encoders = [
        u.technique.settings() for u in first.recipe.uses if u.technique.id.startswith("encoders.")
    ]
    if not encoders:
        raise InputError(f"{first.recipe.id!r} encodes no reference: there is nothing to join")
    count = sum(len(p.concepts) for p in artifacts)
    features = dict(first.features)
    for settings in encoders:
        key, slots = settings["key"], settings["slots"]
        if count > slots:
            raise InputError(
                f"{first.recipe.id!r} takes at most {slots} subject{'s' if slots > 1 else ''}, these "
                f"are {count}"
            )
        for name in (key, f"{key}.states"):
            if name in first.features:
                parts = [p.features[name][: len(p.concepts)] for p in artifacts]
                features[name] = side_by_side(parts, slots)
    return replace(
        first,
        concepts=tuple(c for p in artifacts for c in p.concepts),
        features=features,
        subject="+".join(p.subject for p in artifacts),
    )


def side_by_side(parts: Sequence[Tensor], slots: int) -> Tensor:
    """Return ``parts`` [k ...] one after the other in ``slots`` slots; what is shorter or empty is zeros."""
    longest = [max(sizes) for sizes in zip(*(h.shape[1:] for h in parts), strict=True)]
    result = torch.zeros(slots, *longest, dtype=parts[0].dtype)
    at = 0
    for part in parts:
        place = tuple(slice(0, n) for n in part.shape[1:])
        result[(slice(at, at + len(part)), *place)] = part
        at += len(part)
    return result
