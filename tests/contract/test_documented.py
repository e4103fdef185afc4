"""What docs/techniques.md promises of each technique, the code keeps: settings, types, bounds and defaults."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pcs_core.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "techniques.md").read_text("utf-8")


def pages() -> ModuleType:
    """Return the script that writes the page."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return importlib.import_module("pages.techniques")


@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_settings_are_those_that_are_documented(id: str) -> None:
    section = pages().technique_section(id)
    assert section in PAGE, (
        f"a setting of {id} changed: say it in the changelog, then run `make docs`"
    )
