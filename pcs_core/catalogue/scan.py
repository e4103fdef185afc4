"""Techniques of a package, found in its sources as text: nothing is imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
_ID = re.compile(r'^    id(?:: [\w\[\]]+)? = "([a-z0-9_]+\.[a-z0-9_.]+)"$', re.MULTILINE)


def techniques_in(package: str) -> Mapping[str, str]:
    """Return technique id -> ``"module:class"`` of each top-level class with an ``id = "room.name"``.

    The id is a literal, on a line of its own in the class's body. Modules are read as text, because
    importing them would import torch.

    Raises
    ------
    ValueError
        The package is not installed as files, or two of its classes have one id.
    """
    techniques: dict[str, str] = {}
    for module, text in _sources(package):
        for name, body in _classes(text):
            if (match := _ID.search(body)) is None:
                continue
            where = f"{module}:{name}"
            if match[1] in techniques:
                raise ValueError(f"{techniques[match[1]]} and {where} have one id, {match[1]!r}")
            techniques[match[1]] = where
    return techniques


def _sources(package: str) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each module of a package."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ValueError(f"techniques() names {package!r}, which is no installed package")
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path.read_text("utf-8")


def _classes(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each top-level class, and what stands from there to the next one."""
    heads = list(_CLASS.finditer(text))
    for head, after in zip(heads, [*heads[1:], None], strict=True) if heads else ():
        yield head[1], text[head.end() : after.start() if after else len(text)]
