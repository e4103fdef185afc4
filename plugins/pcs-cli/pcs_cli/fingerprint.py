"""What a fit depends on, so that it is only resumed with what it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import BackboneCard, Personalization, Recipe, Subject

SHOWN = 4
"""How many differences a message names."""


def facts(
    recipe: Recipe, subjects: Sequence[Subject], backbone: BackboneCard, seed: int, device: str
) -> dict[str, Any]:
    """Return, as JSON-able data, all that decides the result of a fit."""
    return {
        "recipe": json.loads(json.dumps(dict(recipe.document))),
        "subjects": [
            {
                "name": subject.name,
                "concepts": [asdict(concept) for concept in subject.concepts],
                "content": content_hash(subject),
            }
            for subject in subjects
        ],
        "backbone": {"id": backbone.id, "hash": backbone.hash},
        "seed": seed,
        "device": device,
    }


def pretrain_facts(
    recipe: Recipe, backbone: BackboneCard, seed: int, device: str, data: str, records: int
) -> dict[str, Any]:
    """Return, as JSON-able data, all that decides the result of a pre-training."""
    return {
        "recipe": json.loads(json.dumps(dict(recipe.document))),
        "data": {"source": data, "records": records},
        "backbone": {"id": backbone.id, "hash": backbone.hash},
        "seed": seed,
        "device": device,
    }


def content_hash(subject: Subject) -> str:
    """Return the sha256 (hex) of a subject's pictures, masks, captions and marks."""
    digest = hashlib.sha256()
    for image in subject.images:
        _add(digest, image)
    for name, masks in sorted(subject.masks.items()):
        digest.update(name.encode())
        for mask in masks:
            _add(digest, mask)
    words: list[object] = [list(subject.captions), [dict(extra) for extra in subject.extra]]
    words += [x for x in (subject.alternatives, subject.repeats) if x]
    digest.update(json.dumps(words, sort_keys=True).encode())
    return digest.hexdigest()


def with_references(artifact: Personalization, subjects: Sequence[Subject]) -> Personalization:
    """Return ``artifact`` with the sha256 (hex) of the pixels of each of its subject's pictures, in order."""
    subject = next((one for one in subjects if one.name == artifact.subject), None)
    if subject is None or not len(subject.images):
        return artifact
    return replace(artifact, extra={**artifact.extra, "references": pixel_hashes(subject)})


def pixel_hashes(subject: Subject) -> list[str]:
    """Return the sha256 (hex) of each picture's size and pixels, as they were read."""
    return [pixel_hash(image) for image in subject.images]


def pixel_hash(picture: Tensor) -> str:
    """Return the sha256 (hex) of a picture's size and pixels."""
    digest = hashlib.sha256()
    _add(digest, picture)
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs, as ``"seed was 0, is 1"``."""
    old, new = dict(_flat(before)), dict(_flat(now))
    changes = []
    for key in dict.fromkeys((*old, *new)):
        if key not in old:
            changes.append(f"{key} is new")
        elif key not in new:
            changes.append(f"{key} is gone")
        elif old[key] != new[key]:
            changes.append(f"{key} was {_short(old[key])}, is {_short(new[key])}")
    return changes


def summary(changes: Sequence[str]) -> str:
    """Return the first few differences in one line."""
    more = f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(changes[:SHOWN]) + more


def _add(digest: Any, tensor: Tensor | None) -> None:
    if tensor is None:
        digest.update(b"none")
        return
    digest.update(str(tuple(tensor.shape)).encode())
    digest.update(tensor.contiguous().numpy().tobytes())


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(data, list) and data and all(isinstance(entry, Mapping) for entry in data):
        # tables of a recipe and subjects are known by their names
        for index, entry in enumerate(data):
            name = entry.get("name", index)
            rest = {key: value for key, value in entry.items() if key != "name"}
            yield f"{prefix}[{index}]", name
            yield from _flat(rest, f"{prefix}.{name}")
    else:
        yield prefix, data


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:20]}..."
