"""What the files of a benchmark's folder say, checked before anything is made of it: they may be another's.

``run.json`` is the protocol, a line of ``cells.jsonl`` a picture, ``sets.json`` scores of sets, and
``fits/<key>.json`` what a fit took. Keys that are not known here pass unread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pcs_core.errors import InputError
from pcs_core.small_files import is_plain_name, parse_json, read_json

Number = Annotated[float, Field(allow_inf_nan=True)]
Count = Annotated[int, Field(ge=0, lt=2**62)]


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("names a folder: leave out slashes and what cannot be printed")
    return name


Name = Annotated[str, AfterValidator(_plain)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Words = dict[str, str]


class _Table(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class SubjectFacts(_Table):
    """What the protocol says of a subject."""

    name: str
    noun: str = ""
    token: str = ""


class ProtocolTable(_Table):
    """``run.json``."""

    suite: str
    backbone: str
    systems: list[str]
    subjects: list[Name]
    cells: list[str]
    metrics: list[str]
    seeds: Count
    device: str = "cpu"
    stands_for: str = ""
    suite_kind: str = ""
    subject_facts: list[SubjectFacts] = []
    machine: dict[str, str | int | None] = {}
    versions: dict[str, str] = {}


class CellTable(_Table):
    """A line of ``cells.jsonl``."""

    key: str
    system: str
    subject: Name
    index: Count
    seed: Count
    template: str
    kind: str = ""
    state: Literal["done", "failed"]
    hash: Digest = ""
    sha256: Digest = ""
    prompt: str = ""
    error: str = ""
    errors: Words = {}
    scores: dict[str, Number | None] = {}
    seconds: Number | None = None
    fit: str | None = None


class SetTable(_Table):
    """A row of ``sets.json``."""

    metric: str
    system: str
    value: Number | None = None
    error: str = ""


class FitTable(_Table):
    """``fits/<key>.json``."""

    seconds: Number
    parameters: Count
    resumed: bool = False
    peak_bytes: Count | None = None
    peak_of: str = ""


def read_protocol(document: Any, path: Path) -> dict[str, Any]:
    """Return the protocol that ``run.json`` holds.

    Raises
    ------
    InputError
        Names the key that is of another kind.
    """
    try:
        ProtocolTable.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}: run the benchmark again") from error
    return dict(document)


def read_cell(text: bytes) -> dict[str, Any] | None:
    """Return a line of ``cells.jsonl``, None for one that a kill cut off or that is no cell."""
    try:
        return CellTable.model_validate(read_line(text)).model_dump()
    except ValidationError:
        return None


def read_line(text: bytes) -> dict[str, Any] | None:
    """Return a line of JSON that holds an object with a text ``key``, else None."""
    try:
        line = parse_json(text.decode("utf-8"), "a line")
    except (InputError, UnicodeDecodeError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("key"), str) else None


_SETS = TypeAdapter(list[SetTable])


def read_sets(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``sets.json``, none where it is missing or damaged: they are made again."""
    return _rows(path, _SETS) or []


_FIT = TypeAdapter(FitTable)


def read_fit(path: Path) -> Mapping[str, Any] | None:
    """Return what a fit took, None where the file is missing or damaged."""
    return _rows(path, _FIT)


def _rows(path: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        data = read_json(path)
        kind.validate_python(data)
    except (InputError, ValidationError):
        return None
    return data


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "it"
    said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said}, got {json.dumps(first['input'], default=str)[:80]}"
