"""Where an exported file or a drawn picture comes from: it says it, and ``pcs show FILE`` reads it back.

Files of safetensors hold it in their metadata, PNGs in a chunk of text. Nothing in it depends on when or where
a command ran: equal commands give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.storage.tensor_files import read_tensors, write_tensors
from pcs_core.storage.versions import versions

if TYPE_CHECKING:
    from pcs_core.data import BackboneCard, Personalization, Recipe

KEY = "pcs.provenance"
"""The entry of a safetensors file's metadata, and the keyword of a PNG's chunk."""
FORMATS = ("controlnet", "diffusers", "ip-adapter", "kohya")
"""Formats whose files say it: a deployment's are named by their hashes in a manifest of its own."""
UNSAID = "not said"
MOST = 2**20
"""Bytes of a model card that are looked at."""


def origin_of(
    artifact: Personalization | None, recipe: Recipe, card: BackboneCard
) -> dict[str, Any]:
    """Return recipe, base, references, versions and licences of an export, as JSON-able data.

    References are the sha256 of each one's pixels, as the artifact keeps them; a system of every subject has
    none. No path, no caption and no name of a file is in it.
    """
    said = {"recipe": {"id": recipe.id, "sha256": recipe.hash}}
    return {**said, **origin_of_base(card), **({} if artifact is None else own_origin(artifact))}


def origin_of_base(card: BackboneCard) -> dict[str, Any]:
    """Return base, licences and versions, as JSON-able data."""
    return {
        "base": {"id": Path(card.id).name, "family": card.family, "sha256": card.hash},
        "licences": {"base": licence_of(card.location)},
        "versions": versions(),
    }


def own_origin(artifact: Personalization) -> dict[str, Any]:
    """Return seed, references and imported file of an artifact, as JSON-able data."""
    known: dict[str, Any] = {"seed": artifact.seed}
    if references := artifact.extra.get("references"):
        known["references"] = [{"sha256": digest} for digest in references]
    imported = artifact.extra.get("imported")
    if isinstance(imported, Mapping):
        known["imported"] = {"sha256": imported.get("sha256", ""), "kind": imported.get("kind", "")}
    return known


def drawing_texts(artifact: Personalization | None, card: BackboneCard) -> dict[str, str]:
    """Return the chunk of text of a drawing's PNGs: as :func:`origin_of`, of several artifacts of each in turn.

    The prompt and the numbers of the drawing are not in it: ``sample.json`` beside the pictures has them.
    """
    if artifact is None:
        known = origin_of_base(card)
    elif artifact.parts:
        each = [
            {"recipe": {"id": one.recipe.id, "sha256": one.recipe.hash}, **own_origin(one)}
            for _, one in artifact.parts
        ]
        known = {"together": each, **origin_of_base(card)}
    else:
        known = origin_of(artifact, artifact.recipe, card)
    return {KEY: json.dumps(known, sort_keys=True)}


def licence_of(location: str) -> str:
    """Return the licence that a model's card names, in the table that its README.md begins with."""
    file = Path(location) / "README.md" if location else None
    if file is None or not file.is_file():
        return UNSAID
    with file.open(encoding="utf-8", errors="replace") as opened:
        lines = opened.read(MOST).splitlines()
    if not lines or lines[0].strip() != "---":
        return UNSAID
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, colon, value = line.partition(":")
        if colon and key == "license" and value.strip():
            return value.strip().strip("\"'")
    return UNSAID


def record(folder: Path, files: Iterable[str], origin: Mapping[str, Any]) -> None:
    """Put ``origin`` into the metadata of the safetensors among ``files``."""
    text = json.dumps(origin, ensure_ascii=False, sort_keys=True)
    for name in files:
        if name.endswith(".safetensors"):
            tensors, metadata = read_tensors(folder / name)
            write_tensors(folder / name, tensors, {**metadata, KEY: text})


def recorded(file: Path) -> dict[str, Any]:
    """Return what :func:`record` put into a file, or :func:`drawing_texts` into a PNG.

    Raises
    ------
    InputError
        It is damaged, or says nothing of where it comes from.
    """
    from pcs_formats.contents import read_contents
    from pcs_formats.png_texts import read_texts

    png = file.suffix.lower() == ".png"
    metadata = read_texts(file) if png else read_contents(file).metadata
    try:
        known = json.loads(metadata[KEY])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{file} does not say where it comes from: another tool wrote it, or it was told not to"
        ) from error
    if not isinstance(known, dict):
        raise InputError(f"{file}: {KEY} is no JSON object")
    return known
