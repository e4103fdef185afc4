"""Where each table and key of a TOML text stands, since ``tomllib`` does not tell."""

from __future__ import annotations

import tomllib
from typing import Any

Path = tuple[str | int, ...]


def line_numbers(text: str) -> dict[Path, int]:
    """Return path -> line (from 1) of every table and key of a valid TOML ``text``.

    Paths are as in the parsed data: ``("use", 0, "rank")``, ``("sample", "steps")``.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    numbers: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    start = 0
    while start < len(lines):
        stop, data = _statement(lines, start)
        if data:
            keys = _keys(data)
            if lines[start].lstrip().startswith("["):
                repeated = lines[start].lstrip().startswith("[[")
                table = _enter(keys, counts, repeated=repeated)
                numbers[table] = start + 1
            else:
                # an inline table or a dotted key names several paths, all written on this line
                for length in range(1, len(keys) + 1):
                    numbers.setdefault(table + keys[:length], start + 1)
        start = stop
    return numbers


def _statement(lines: list[str], start: int) -> tuple[int, dict[str, Any]]:
    # a value may go on over lines: the statement ends with the first line where it parses
    for stop in range(start + 1, len(lines) + 1):
        try:
            return stop, tomllib.loads("\n".join(lines[start:stop]))
        except tomllib.TOMLDecodeError:
            continue
    return start + 1, {}


def _keys(data: dict[str, Any]) -> Path:
    keys: list[str] = []
    node: Any = data
    # one statement makes a chain of single keys; an inline table at its end is the value
    while isinstance(node, dict) and len(node) == 1:
        key, node = next(iter(node.items()))
        keys.append(key)
    return tuple(keys)


def _enter(keys: Path, counts: dict[Path, int], *, repeated: bool) -> Path:
    path: Path = ()
    for position, key in enumerate(keys):
        path += (key,)
        last = position == len(keys) - 1
        if last and repeated:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path
