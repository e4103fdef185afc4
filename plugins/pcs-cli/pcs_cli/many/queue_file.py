"""A queue of fits: a file of JSON objects, one a line, read whole before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcs_cli.claims import LONGEST_NAME
from pcs_cli.many.journal import FILE
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import is_plain_name, read_text

KEYS = ("system", "folder", "name", "noun", "token", "set", "seed", "size", "buckets", "crop")
OURS = re.compile(rf"\A\.|\A{re.escape(FILE)}\Z|\.(?:partial|old|new)(?:-\d+)?\Z")
"""What stands beside the results: the journal, hidden files, and folders of work."""
SHOWN = 40
"""Characters of a name that a message shows."""


@dataclass(frozen=True, slots=True)
class Line:
    """One fit of a queue. ``folder`` is where its pictures lie, ``name`` its folder in the result."""

    place: str
    system: str
    folder: Path
    name: str
    noun: str | None = None
    token: str | None = None
    settings: tuple[str, ...] = ()
    seed: int = 0
    size: str | None = None
    buckets: bool = False
    crop: str = "auto"


def read_queue(path: Path) -> tuple[list[Line], list[str]]:
    """Return the fits of a queue, and what is wrong with lines of it, each with its place.

    Folders are relative to the queue's own.

    Raises
    ------
    InputError
        It cannot be read, or holds no fit.
    """
    text = read_text(path)
    lines: list[Line] = []
    wrong: list[str] = []
    for number, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        place = f"{path}:{number}"
        try:
            lines.append(read_line(row, place, path.parent))
        except InputError as error:
            wrong.append(f"{place}: {error}")
    if not lines and not wrong:
        raise InputError(
            f'{path} holds no fit: a line of it is {{"system": "lora-dreambooth", "folder": "pug"}}'
        )
    wrong += twice(lines)
    return lines, wrong


def read_line(row: str, place: str, beside: Path) -> Line:
    """Return the fit of one line.

    Raises
    ------
    InputError
        It is no JSON object, lacks something, or says what no fit can be told.
    """
    try:
        said = json.loads(row, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise InputError(f"no JSON object: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InputError("no JSON object: it is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"no JSON object: {error}") from error
    if not isinstance(said, dict):
        raise InputError('no JSON object: write {"system": ..., "folder": ...}')
    for key in said:
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}{nearest(key, KEYS)} (known: {', '.join(KEYS)})")
    system, folder = _text(said, "system"), _text(said, "folder")
    if system is None or folder is None:
        raise InputError(f"{'system' if system is None else 'folder'!r} is missing")
    seed = said.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"'seed' is {seed!r}: give a whole number from 0 on")
    where = beside / Path(folder).expanduser()
    name = _text(said, "name") or where.resolve().name
    check_name(name)
    buckets = said.get("buckets", False)
    if not isinstance(buckets, bool):
        raise InputError(f"'buckets' is {buckets!r}: give true or false")
    return Line(
        place,
        system,
        where,
        name,
        noun=_text(said, "noun"),
        token=_text(said, "token"),
        settings=tuple(_settings(said.get("set"))),
        seed=seed,
        size=_text(said, "size"),
        buckets=buckets,
        crop=_text(said, "crop") or "auto",
    )


def check_name(name: str) -> None:
    """Refuse a name that no folder can have, or that means something beside one.

    Raises
    ------
    InputError
        Says why.
    """
    shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
    if not is_plain_name(name) or len(name.encode()) > LONGEST_NAME:
        raise InputError(f"'name' is {shown!r}: give one that a folder can have")
    if OURS.search(name):
        raise InputError(f"'name' is {shown!r}: pcs names its own files so, give another one")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{again!r} is said twice")
    return said


def _text(said: Mapping[str, Any], key: str) -> str | None:
    value = said.get(key)
    if value is None and key not in said:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{key!r} is {value!r}: give a text")
    return value


def _settings(said: Any) -> Iterator[str]:
    """Yield settings as the command line has them, from a list of such, or from an object."""
    if said is None:
        return
    if isinstance(said, list) and all(isinstance(one, str) for one in said):
        yield from said
    elif isinstance(said, dict):
        for key, value in said.items():
            yield f"{key}={json.dumps(value, ensure_ascii=False)}"
    else:
        raise InputError(
            f"'set' is {said!r}: give a list of KEY=VALUE, or an object as {{\"weights.lora.rank\": 8}}"
        )


def twice(lines: list[Line]) -> Iterator[str]:
    """Yield what is wrong with lines whose results would have one name."""
    seen: dict[str, Line] = {}
    for line in lines:
        # case is none to some file systems
        first = seen.setdefault(line.name.casefold(), line)
        if first is not line:
            yield (
                f"{line.place}: {line.name!r} is the name of {first.place} already: give one of them "
                'another "name"'
            )
