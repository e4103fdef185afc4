"""``manifest.json``: what an artifact is and which bytes belong to it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pcs_core.errors import ArtifactError, PcsError
from pcs_core.small_files import inside, parse_json, read_bytes

SCHEMA = 1
MANIFEST = "manifest.json"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardTable(_Table):
    """Identity of the backbone: see :class:`pcs_core.data.BackboneCard`."""

    id: str
    hash: str
    family: str
    size: tuple[int, int]
    prediction: str
    location: str


class ConceptTable(_Table):
    """A concept: see :class:`pcs_core.data.Concept`."""

    name: str
    token: str
    noun: str
    kind: str


MOST_MANIFEST = 2**25
"""Bytes of a manifest; what plugins note in it, as losses of every step, is the most of it."""


class Manifest(_Table):
    """The manifest. ``files`` maps a file's name to the sha256 (hex) of its bytes.

    A loss that was not finite is kept as null, since JSON has no nan.
    """

    schema_number: int = Field(alias="schema")
    subject: str
    seed: int
    backbone: CardTable
    concepts: tuple[ConceptTable, ...]
    losses: dict[str, float | None]
    versions: dict[str, str]
    recipe_hash: str
    recipe: dict[str, Any]
    files: dict[str, str]
    extra: dict[str, Any]
    sha256: str = ""


def render(manifest: Manifest) -> bytes:
    """Return the bytes of ``manifest.json``.

    Raises
    ------
    ValueError, TypeError
        ``extra`` is no JSON.
    """
    return _bytes(manifest.model_dump(mode="json", by_alias=True))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the artifact in ``folder``.

    Raises
    ------
    ArtifactError
        Not an artifact, made by a newer version, or changed after it was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        missing = "is not an artifact: it has no manifest.json"
        other = "is a file" if folder.exists() else "does not exist"
        raise ArtifactError(
            f"{folder} {missing if folder.is_dir() else other}. "
            "Give a folder made by `pcs fit` or `pcs merge`"
        )
    damaged = f"{path} is damaged: it was changed after it was written. Fit again or restore it"
    try:
        content = read_bytes(inside(folder, MANIFEST, folder), most=MOST_MANIFEST)
        data = parse_json(content.decode(), path)
        number = data["schema"]
        unchanged = content == _bytes(data)
    except (PcsError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(damaged) from error
    if isinstance(number, int) and number > SCHEMA:
        raise ArtifactError(
            f"{folder} was made by a newer version (schema {number}, this one reads {SCHEMA}): "
            "upgrade pcs-core"
        )
    # only this code writes the file, so that any other way to put the same data is a change
    if not unchanged:
        raise ArtifactError(damaged)
    try:
        return Manifest.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise ArtifactError(damaged) from error


def file_hash(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finite(losses: Mapping[str, float]) -> dict[str, float | None]:
    """Return losses as the manifest holds them: null for what is not finite."""
    return {k: float(v) if math.isfinite(v) else None for k, v in losses.items()}


def _bytes(data: Any) -> bytes:
    # the digest stands in the file itself: a changed number still parses
    body = {key: value for key, value in data.items() if key != "sha256"}
    canonical = json.dumps(body, sort_keys=True, allow_nan=False)
    body["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    return (json.dumps(body, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
