"""Content hashes: what a picture depends on, and nothing else."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.data import Subject

FORMAT = 1
"""Part of every key: a new way of drawing makes all cached pictures old."""
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


@cache
def versions() -> dict[str, str]:
    """Return distribution -> version of what has a hand in a picture: Python, PCS, libraries.

    Without this distribution itself: a new report makes no picture old.
    """
    numbers = {"python": platform.python_version()}
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if (name.startswith("pcs-") and name != "pcs-bench") or name in LIBRARIES:
            numbers[name] = distribution.version
    return dict(sorted(numbers.items()))


def digest(**parts: Any) -> str:
    """Return the sha256 (hex) of named plain values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def subject_hash(subject: Subject) -> str:
    """Return the sha256 (hex) of all a fit reads of ``subject``; its name draws the random numbers."""
    hasher = hashlib.sha256()
    facts = [
        subject.name,
        [[c.name, c.token, c.noun, c.kind] for c in subject.concepts],
        list(subject.captions),
        [dict(extra) for extra in subject.extra],
        {name: [m is not None for m in masks] for name, masks in subject.masks.items()},
        *(more for more in (subject.alternatives, subject.repeats) if more),
    ]
    hasher.update(json.dumps(facts, sort_keys=True, default=str).encode())
    masks = [m for _, row in sorted(subject.masks.items()) for m in row if m is not None]
    for tensor in (*subject.images, *masks):
        hasher.update(repr(tuple(tensor.shape)).encode())
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def fit_key(recipe: str, backbone: str, subject: str, seed: int) -> str:
    """Return the key of a fit from the hashes of recipe (settings included), backbone and subject."""
    return digest(
        format=FORMAT,
        recipe=recipe,
        backbone=backbone,
        subject=subject,
        seed=seed,
        versions=versions(),
    )


def picture_key(source: str, prompt: str, noise: int, **settings: Any) -> str:
    """Return the key of a picture: what draws it (a fit's key, or a baseline), text and noise."""
    return digest(
        format=FORMAT,
        source=source,
        prompt=prompt,
        noise=noise,
        settings=settings,
        versions=versions(),
    )
