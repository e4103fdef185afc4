"""What another tool's file holds: its tensors by name and what it says of itself. No pickle is read here."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.small_files import parse_json, read_text
from pcs_core.tensor_headers import read_header
from pcs_formats.unpickling import PLAIN, SECONDS

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
NESTED = "state_dict."
"""What stands before every tensor of a checkpoint that holds numbers of its training beside them."""
WAIT = 4 * SECONDS
"""Seconds that a conversion may last on the wall clock."""
CONFIGURATION = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Contents:
    """A file's tensors by key, its ``metadata`` (strings), and ``beside``: peft's configuration next to it.

    ``plain`` are a pickled file's numbers and words by their dotted path.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""


def read_contents(file: str | Path) -> Contents:
    """Read a file of tensors: safetensors here, a pickled one in a process of its own.

    Raises
    ------
    InputError
        There is no such file, it is of another kind, or damaged.
    """
    path = Path(file).expanduser()
    if path.is_dir():
        path = only_file(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.suffix.lower() in PICKLED:
        tensors, metadata = _unpickled(path)
    elif path.suffix.lower() == ".safetensors":
        tensors, metadata = _tensors(path, path)
    else:
        raise InputError(
            f"{path}: files of weights end in .safetensors, {', '.join(PICKLED)}, not in {path.suffix!r}"
        )
    if not tensors:
        raise InputError(f"{path} holds no tensor")
    plain = _table(metadata.pop(PLAIN), f"{path}: {PLAIN}") if PLAIN in metadata else {}
    # last: a file that says more than it holds may be terabytes of nothing
    digest = hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while block := opened.read(2**22):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return Contents(path, tensors, metadata, plain, _beside(path), digest.hexdigest())


def only_file(folder: Path) -> Path:
    """Return the one file of weights in ``folder``, as peft and diffusers save them.

    Raises
    ------
    InputError
        There is none, or several.
    """
    files = [p for p in sorted(folder.iterdir()) if p.suffix == ".safetensors"]
    if len(files) != 1:
        names = ", ".join(p.name for p in files) or "none"
        raise InputError(f"{folder} holds {len(files)} safetensors files ({names}): name one")
    return files[0]


def _tensors(file: Path, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        read_header(file)
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            # the library gives them in another order each time, and an artifact keeps them
            return tensors, dict(sorted((opened.metadata() or {}).items()))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file, or damaged: {error}") from error


def _unpickled(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "tensors.safetensors"
        # -P: what lies in the folder of the command is not imported
        command = [
            sys.executable,
            "-P",
            "-m",
            "pcs_formats.unpickling",
            str(path.resolve()),
            str(out),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{path} was not read within {WAIT} seconds: it is damaged") from error
        if done.returncode or not out.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise InputError(
                f"{path} holds more than tensors, numbers and words, or is damaged, so it is not read "
                f"({lines[-1]})"
            )
        tensors, metadata = _tensors(out, path)
        inside = NESTED if all(key.startswith(NESTED) for key in tensors) else ""
        return {k.removeprefix(inside): tensor.clone() for k, tensor in tensors.items()}, metadata


def _beside(path: Path) -> dict[str, Any]:
    """Return peft's configuration beside one of its files, or nothing."""
    file = path.with_name(CONFIGURATION)
    if not path.name.startswith("adapter_model") or not file.is_file():
        return {}
    return _table(read_text(file), str(file))


def _table(text: str, place: str) -> dict[str, Any]:
    values = parse_json(text, place)
    if not isinstance(values, dict):
        raise InputError(f"{place} is no JSON object")
    return values
