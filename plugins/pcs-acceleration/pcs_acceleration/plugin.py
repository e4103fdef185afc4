"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from pcs_core.hookspecs import catalogue_hookimpl

FILES = SimpleNamespace(
    **{path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.toml"))}
)
"""Preset id -> its file."""


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_acceleration"


@catalogue_hookimpl
def presets() -> Mapping[str, str]:
    """Presets by id: the names of the files."""
    return {id: f"pcs_acceleration.plugin:FILES.{id}" for id in vars(FILES)}


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs preset list|show|check``."""
    return {"preset": "pcs_acceleration.commands:app"}
