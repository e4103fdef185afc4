"""Techniques of a package, found in its sources as text: nothing is imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
_ID = re.compile(r'^    id(?:: [\w\[\]]+)? = "([a-z0-9_]+\.[a-z0-9_.]+)"$', re.MULTILINE)
_CATALOGUE = re.compile(r"^    catalogue(?:: [\w\[\]., ]+)? = \(([^)]*)\)", re.MULTILINE)
_FORMERLY = re.compile(r"^    formerly(?:: [\w\[\]., ]+)? = \(([^)]*)\)", re.MULTILINE)
_LITERAL = re.compile(r'"([^"]*)"')


class ScannedTechnique(NamedTuple):
    """Where a technique lies, ``"module:class"``, what its class says it implements, and its earlier ids."""

    where: str
    catalogue: tuple[str, ...]
    formerly: tuple[str, ...] = ()


def techniques_in(package: str) -> Mapping[str, ScannedTechnique]:
    """Return the techniques of a package by id: each top-level class with an ``id = "group.name"``.

    The id is a literal, on a line of its own in the class's body, and so are ``catalogue`` and ``formerly``,
    tuples of literals. Modules are read as text, because importing them would import torch.

    Raises
    ------
    ValueError
        The package is not installed as files, or two of its classes have one id.
    """
    techniques: dict[str, ScannedTechnique] = {}
    for module, text in _sources(package):
        for name, body in _classes(text):
            if (match := _ID.search(body)) is None:
                continue
            where = f"{module}:{name}"
            if match[1] in techniques:
                first = techniques[match[1]].where
                raise ValueError(f"{first} and {where} have one id, {match[1]!r}")
            techniques[match[1]] = ScannedTechnique(
                where, _literals(_CATALOGUE.search(body)), _literals(_FORMERLY.search(body))
            )
    return techniques


def _literals(match: re.Match[str] | None) -> tuple[str, ...]:
    return tuple(_LITERAL.findall(match[1])) if match else ()


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
