"""Figures that others published, marked as such: the survey's Table 1."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "published.toml"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of a published table. ``text`` is CLIP-T; ``fidelity`` CLIP-I, of faces identity."""

    type: str
    method: str
    framework: str
    backbone: str
    text: float
    fidelity: float
    system: str = ""
    published: bool = True


def source() -> dict[str, Any]:
    """Return paper, table and what was measured how."""
    facts: dict[str, Any] = _data()["source"]
    return facts


def table() -> tuple[PublishedRow, ...]:
    """Return the rows in the order of the paper."""
    return tuple(PublishedRow(**row) for row in _data()["row"])


def _data() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
