"""What a safetensors file says of its tensors, checked before a library or the memory meets it.

The format: eight bytes of length (little-endian), a JSON object of that length with an entry for each
tensor, then their numbers without a gap (https://huggingface.co/docs/safetensors). The library that reads it
takes a key that stands there twice, whole numbers in place of weights, and a file larger than the memory.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pcs_core.errors import PcsError
from pcs_core.small_files import parse_json

MOST_HEADER = 2**24
"""Bytes of a header; that of SDXL's 2,500 tensors takes 350,000."""
METADATA = "__metadata__"
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
WHOLE = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
"""Bytes of a number by what the format calls it."""
LEARNED = (".weight", ".bias")
"""How the names end of tensors that are fractions in every network."""


class Entry(NamedTuple):
    """One tensor of a file: its kind of number and its shape."""

    kind: str
    shape: tuple[int, ...]


def read_header(file: Path, *, floats: bool = False) -> dict[str, Entry]:
    """Return the tensors of a safetensors file by name; no number of them is read.

    With ``floats`` every tensor must be of fractions, else those alone that are weights by their names.

    Raises
    ------
    ValueError
        The file is not whole, or says what cannot be: which tensor, and what of it.
    OSError
        It cannot be read, or is no regular file.
    """
    with file.open("rb") as opened:
        about = os.fstat(opened.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError("it is no regular file")
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 0 < length <= about.st_size - 8:
            raise ValueError("it is cut short, or no safetensors file")
        if length > MOST_HEADER:
            raise ValueError(
                f"its header takes {length} bytes, at most {MOST_HEADER / 2**20:g} MiB are read"
            )
        text = opened.read(length)
    return check_header(text, about.st_size - 8 - length, floats=floats)


def check_header(text: bytes, size: int, *, floats: bool = False) -> dict[str, Entry]:
    """Return the tensors that a header names, of a file whose numbers take ``size`` bytes.

    Raises
    ------
    ValueError
        As :func:`read_header`.
    """
    try:
        table = parse_json(text.decode("utf-8"), "its header")
    except UnicodeDecodeError as error:
        raise ValueError("its header is not UTF-8 text") from error
    except PcsError as error:
        raise ValueError(str(error)) from error
    if not isinstance(table, dict):
        raise ValueError("its header is no table of tensors")
    notes = table.pop(METADATA, {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise ValueError(f"{METADATA} of its header is no table of texts")
    entries, places = {}, []
    for name, entry in table.items():
        entries[name], place = _entry(name, entry, floats=floats or name.endswith(LEARNED))
        places.append((*place, name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            what = "overlaps another's" if begin < at else "leaves a gap before it"
            raise ValueError(f"the place of tensor {name[:80]!r} {what}")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at} bytes and it holds {size}: it is damaged")
    memory = machine_memory()
    if memory is not None and size > memory:
        raise ValueError(
            f"its tensors take {size / 1e9:.0f} GB, and this machine has {memory / 1e9:.0f}"
        )
    return entries


def machine_memory() -> int | None:
    """Return the bytes of this machine's memory, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _entry(name: str, entry: Any, *, floats: bool) -> tuple[Entry, tuple[int, int]]:
    said = f"tensor {name[:80]!r}"
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{said} has no dtype, shape and data_offsets alone")
    kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in FLOATS | WHOLE:
        raise ValueError(f"{said} is of {str(kind)[:20]!r}, a kind of number that is not read")
    if floats and kind not in FLOATS:
        raise ValueError(f"{said} is of {kind}, whole numbers: weights are fractions")
    if not _are_counts(shape) or not _are_counts(place) or len(place) != 2 or len(shape) > 8:
        raise ValueError(f"{said} has a shape or place that is none")
    begin, end = place
    if end - begin != math.prod(shape) * (FLOATS | WHOLE)[kind]:
        raise ValueError(f"{said} of {shape} {kind} takes another number of bytes than it says")
    return Entry(kind, tuple(shape)), (begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**48 for v in value)
