"""A preset: techniques and numbers put over any recipe when pictures are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.data.recipe import SampleSettings, Use


@dataclass(frozen=True, slots=True)
class Preset:
    """A resolved preset, on one backbone.

    ``uses`` stand behind those of the recipe. ``sample`` holds the keys of ``[sample]`` that it sets.
    ``bounds`` are what its quality gate may lose at most, numbers by name, whose meaning is the gate's.
    ``hash`` is the sha256 over uses, numbers and bounds; ``path`` the file it was read from, or "".
    """

    id: str
    title: str = ""
    notes: str = ""
    uses: tuple[Use, ...] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    hash: str = ""
    path: str = ""

    def over(self, settings: SampleSettings) -> SampleSettings:
        """Return ``settings`` with the preset's numbers over them."""
        return replace(settings, **self.sample)

    def facts(self) -> dict[str, Any]:
        """Return what it does, as plain data."""
        return {
            "id": self.id,
            "hash": self.hash,
            "uses": [
                {"technique": use.technique.id, "name": use.name, **use.technique.settings()}
                for use in self.uses
            ],
            "sample": dict(self.sample),
        }
