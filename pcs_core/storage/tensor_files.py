"""Named tensors in a safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pcs_core.tensor_headers import read_header


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` (any device and layout) and text ``metadata`` to ``path``.

    The same tensors and metadata make the same bytes.

    Raises
    ------
    OSError
        It cannot be written: a full disk, no permission.
    """
    try:
        # never without metadata: an empty table beside no tensors makes a header that is no JSON
        save_file(own_storage(tensors), path, {"format": "pt", **(metadata or {})})
        _in_order(path)
        # safetensors writes for the owner alone; the other files of an artifact follow the umask
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
    except SafetensorError as error:
        # the library wraps the system's error in its own
        raise OSError(str(error)) from error


def read_tensors(path: Path, *, floats: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors (on the CPU, in memory of their own) and the metadata of ``path``.

    With ``floats`` all of them must be fractions.

    Raises
    ------
    ValueError
        Not a complete safetensors file, or one that says what cannot be.
    OSError
        It cannot be read.
    """
    read_header(path, floats=floats)
    try:
        with safe_open(path, framework="pt") as file:
            # cloned: the file's pages must not stay mapped when it is replaced or cut short
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, dict(sorted((file.metadata() or {}).items()))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _in_order(path: Path) -> None:
    """Sort the metadata in a file's header, which the library writes in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(length))
        table["__metadata__"] = dict(sorted(table["__metadata__"].items()))
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` detached, on the CPU, contiguous, none sharing memory with another."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        storage = value.untyped_storage()
        # a slice of a stacked parameter shares its storage, which the format refuses
        if storage.nbytes() != value.numel() * value.element_size() or storage.data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        result[name] = value
    return result
