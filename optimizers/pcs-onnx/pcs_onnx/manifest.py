"""The manifest of a deployment folder: written whole, read with checks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import ArtifactError, InputError
from pcs_core.small_files import inside, read_json
from pcs_core.tensor_headers import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SCHEMA = "pcs-onnx/2"
FILE = "manifest.json"
MOST = 2**26
"""Bytes of one; it lists every input of every graph."""
ADAPTER = "adapter.safetensors"
"""Pre-trained weights that artifacts of the system build on."""


def write(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``manifest.json`` with the sha256 of every other file of ``folder``; return it."""
    files = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.name != FILE}
    manifest = {"schema": SCHEMA, **facts, "files": files}
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def is_deployment(folder: Path) -> bool:
    """Return whether ``folder`` says that it is a deployment."""
    try:
        document = read_json(folder / FILE, most=MOST)
    except InputError:
        return False
    return isinstance(document, dict) and str(document.get("schema", "")).startswith("pcs-onnx/")


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest, with every file compared to its sha256.

    Raises
    ------
    ArtifactError
        Of another version of the format, or a file is missing or changed.
    """
    manifest: Any = read_json(folder / FILE, most=MOST)
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{folder / FILE} holds no table: export it again")
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{folder}: the deployment's schema is {manifest.get('schema')!r}, this pcs-onnx reads "
            f"{SCHEMA!r}: export it again"
        )
    listed: Any = manifest.get("files")
    graphs: Any = manifest.get("graphs")
    if not _is_table(listed, str) or not _is_table(graphs, dict):
        raise ArtifactError(f"{folder / FILE} names no files and graphs: export it again")
    for graph in graphs.values():
        # nothing is opened whose bytes were not compared
        if graph.get("file") not in listed:
            raise ArtifactError(f"{folder / FILE}: a graph's file is not listed: export it again")
    for name, digest in listed.items():
        if not inside(folder, name, folder / FILE).is_file():
            raise ArtifactError(f"{folder}: the deployment lacks {name!r}: export it again")
        if sha256(folder / name) != digest:
            raise ArtifactError(
                f"{folder / name} is not the file that was exported: export it again"
            )
    return manifest


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of a deployment.

    Raises
    ------
    ArtifactError
        The file is not whole, or says what cannot be.
    """
    from safetensors.torch import load_file

    try:
        read_header(file)
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}: export it again") from error
    return tensors


def _is_table(data: Any, of: type) -> bool:
    return isinstance(data, dict) and all(isinstance(v, of) for v in data.values())


def sha256(file: Path) -> str:
    """Return the digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
