"""Checkpoints: tensors and JSON state in one file that is whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from pcs_core.errors import ArtifactError, InputError, PcsError
from pcs_core.small_files import parse_json
from pcs_core.storage.durable import replacing_file
from pcs_core.storage.tensor_files import own_storage, read_tensors, write_tensors

LONGEST_NAME = 120


def write_checkpoint(
    folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write checkpoint ``name`` under ``folder``, in place of one of that name.

    ``state`` is JSON-able. Killed at any moment, the file is the old or the new one.

    Raises
    ------
    InputError
        It cannot be written, as on a full disk.
    """
    owned = own_storage(tensors)
    text = json.dumps(state)  # in the order given: losses are listed alike after an interruption
    metadata = {"state": text, "sha256": _digest(owned, text)}
    try:
        with replacing_file(checkpoint_path(folder, name)) as temporary:
            write_tensors(temporary, owned, metadata)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write checkpoint {name!r} under {folder}: {reason}") from error


def read_checkpoint(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors (on the CPU) and the state of checkpoint ``name``, or None without one.

    Raises
    ------
    ArtifactError
        The file is damaged.
    """
    path = checkpoint_path(folder, name)
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
        state = parse_json(metadata["state"], path)
        expected = {"state": metadata["state"], "sha256": _digest(tensors, metadata["state"])}
        whole = metadata == {"format": "pt", **expected}
    except (OSError, PcsError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): {_MEND}") from error
    if not whole or not isinstance(state, dict):
        raise ArtifactError(f"{path} is damaged (its sha256 differs): {_MEND}")
    return tensors, state


def cached_tensors(
    folder: Path, name: str, make: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors kept under ``name``; on the first call they are made and written.

    A damaged file is made again: unlike a checkpoint nothing in it is lost.
    """
    try:
        cached = read_checkpoint(folder, name)
    except ArtifactError:
        cached = None
    if cached is not None:
        return cached[0]
    tensors = own_storage(make())
    write_checkpoint(folder, name, tensors, {})
    return tensors


def checkpoint_path(folder: Path, name: str) -> Path:
    """Return the file of checkpoint ``name``; any text is a name, and two names are two files."""
    # dots are quoted too: no name is hidden or leads out of the folder
    stem = quote(name, safe="").replace(".", "%2E")
    if len(stem) > LONGEST_NAME:
        stem = f"{stem[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return folder / f"{stem}.safetensors"


_MEND = "delete it, or start again without it"


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
