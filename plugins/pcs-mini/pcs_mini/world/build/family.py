"""What one builder of assets hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family of assets: drawings, solids, people or panoramas."""

    entries: dict[str, bytes]
    """Files of the archive: name -> bytes."""
    index: dict[str, Any]
    """What there is, as plain JSON values."""
    sources: list[dict[str, Any]]
    """One per package: ``package``, ``version``, ``sha256``, ``licence``, ``author`` and more."""
