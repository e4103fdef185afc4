"""The artifact: a folder with a manifest, the recipe as given, and tensors. Nothing executable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_core.arguments import checks_arguments
from pcs_core.assembly import recipe_from_document
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.data.personalization import BackboneCard, Personalization
from pcs_core.data.recipe import Recipe
from pcs_core.data.subject import Concept
from pcs_core.errors import ArtifactError, InputError, PcsError, check_utf8
from pcs_core.small_files import inside, is_plain_name
from pcs_core.storage.durable import replacing_folder
from pcs_core.storage.facts import ArtifactFacts, describe_missing, missing_techniques
from pcs_core.storage.manifest import (
    MANIFEST,
    SCHEMA,
    CardTable,
    ConceptTable,
    Manifest,
    file_hash,
    finite,
    read_manifest,
    render,
)
from pcs_core.storage.tensor_files import read_tensors, write_tensors
from pcs_core.storage.versions import versions

RECIPE, WEIGHTS, FEATURES = "recipe.toml", "weights.safetensors", "features.safetensors"
OWN_FILES = frozenset({MANIFEST, RECIPE, WEIGHTS, FEATURES})


@checks_arguments
def save(
    artifact: Personalization,
    folder: str | Path,
    *,
    extra_files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``artifact`` as an artifact to ``folder``, whole or not at all.

    ``extra_files`` are written beside it (``{"preview.png": ...}``). With ``overwrite`` an artifact
    that is there already is replaced; a folder that holds anything else never is.

    Raises
    ------
    InputError
        The folder is taken, not named in UTF-8, or cannot be written (a full disk, no permission); or
        several personalizations that are drawn together.
    """
    if artifact.parts:
        raise InputError("personalizations that are drawn together are not stored: merge them")
    folder = Path(folder)
    check_utf8(folder)
    _check_free(folder, overwrite=overwrite)
    extra = dict(extra_files or {})
    for name in extra:
        if not is_plain_name(name) or name in OWN_FILES:
            raise InputError(f"{name!r} cannot be the name of an extra file of an artifact")
    try:
        with replacing_folder(folder) as temporary:
            _write(artifact, temporary, extra)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error


@checks_arguments
def load(folder: str | Path, *, catalogue: Catalogue | None = None) -> Personalization:
    """Read the artifact in ``folder``; every byte is checked against the manifest.

    Raises
    ------
    ArtifactError
        Not an artifact, damaged, made by a newer version, or of a technique not installed.
    """
    folder = Path(folder)
    manifest = _checked(folder)
    recipe = _recipe(folder, manifest, catalogue)
    concepts = tuple(Concept(**concept.model_dump()) for concept in manifest.concepts)
    return Personalization(
        recipe=recipe,
        backbone=BackboneCard(**manifest.backbone.model_dump()),
        concepts=concepts,
        tensors=_tensors(folder, WEIGHTS, manifest),
        features=_tensors(folder, FEATURES, manifest),
        seed=manifest.seed,
        losses={k: math.nan if v is None else v for k, v in manifest.losses.items()},
        subject=manifest.subject,
        versions=manifest.versions,
        extra=manifest.extra,
    )


def read_facts(folder: str | Path, *, catalogue: Catalogue | None = None) -> ArtifactFacts:
    """Read what the artifact in ``folder`` says of itself, whether or not its plugins are installed.

    Raises
    ------
    ArtifactError
        Not an artifact, damaged, or made by a newer version.
    """
    folder = Path(folder)
    manifest = _checked(folder)
    return ArtifactFacts(
        manifest=manifest,
        tensors=_tensors(folder, WEIGHTS, manifest),
        features=_tensors(folder, FEATURES, manifest),
        missing=missing_techniques(manifest, catalogue),
    )


def _checked(folder: Path) -> Manifest:
    """Return the manifest of an artifact whose bytes are all as it says."""
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        _check_file(folder, name, expected)
    return manifest


def _write(artifact: Personalization, folder: Path, extra: Mapping[str, bytes]) -> None:
    write_tensors(folder / WEIGHTS, artifact.tensors)
    if artifact.features:
        write_tensors(folder / FEATURES, artifact.features)
    if artifact.recipe.source:
        (folder / RECIPE).write_text(artifact.recipe.source, encoding="utf-8", newline="")
    for name, content in extra.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        schema=SCHEMA,
        subject=artifact.subject,
        seed=artifact.seed,
        backbone=CardTable(**asdict(artifact.backbone)),
        concepts=tuple(ConceptTable(**asdict(concept)) for concept in artifact.concepts),
        losses=finite(artifact.losses),
        versions=dict(artifact.versions) or versions(),
        recipe_hash=artifact.recipe.hash,
        recipe=dict(artifact.recipe.document),
        files={file.name: file_hash(file) for file in sorted(folder.iterdir())},
        extra=dict(artifact.extra),
    )
    (folder / MANIFEST).write_bytes(render(manifest))


def _recipe(folder: Path, manifest: Manifest, catalogue: Catalogue | None) -> Recipe:
    source = ""
    if RECIPE in manifest.files:
        source = (folder / RECIPE).read_bytes().decode("utf-8")
    place = str(folder / MANIFEST)
    try:
        document = as_meant(manifest.recipe, catalogue or installed())
        return recipe_from_document(document, catalogue=catalogue, source=source, place=place)
    except PcsError as error:
        if missing := missing_techniques(manifest, catalogue):
            raise ArtifactError(
                f"{folder} cannot be drawn here: it uses {describe_missing(missing)}, which is not installed "
                f"(pip install it; `pcs show {folder}` shows what the artifact says)"
            ) from error
        raise ArtifactError(str(error)) from error


def as_meant(document: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return a stored recipe with the values of settings that were not there when it was written.

    Raises
    ------
    PcsError
        A technique of it is not installed.
    """
    written = document.get("use", [])
    if not isinstance(written, list) or not all(
        isinstance(u, dict) and "technique" in u for u in written
    ):
        return dict(document)  # read on by the recipes' reader, which says what is wrong
    today = [catalogue.technique_today(use["technique"]) for use in written]
    uses = [
        {**catalogue.get("techniques", id).absent, **use}
        for id, use in zip(today, written, strict=True)
    ]
    return {**document, "use": uses}


def _tensors(folder: Path, name: str, manifest: Manifest) -> dict[str, Tensor]:
    if name not in manifest.files:
        if name == WEIGHTS:
            raise ArtifactError(f"{folder / MANIFEST} names no {WEIGHTS}: it is incomplete")
        return {}
    try:
        return read_tensors(folder / name, floats=name == WEIGHTS)[0]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / name} cannot be read: {error}") from error


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    # a manifest from elsewhere must not make us read outside its folder
    try:
        inside(folder, name, folder / MANIFEST)
    except InputError as error:
        raise ArtifactError(str(error)) from error
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: the artifact is incomplete, restore it")
    try:
        actual = file_hash(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    if actual != expected:
        raise ArtifactError(
            f"{path} is damaged: its sha256 is not the manifest's. Fit again or restore it"
        )


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the name of a folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder} is not empty: give another folder, or --overwrite")
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no artifact, so it is not overwritten: empty it first")
