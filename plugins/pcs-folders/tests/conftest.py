"""A subject folder, empty and with one good image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty subject folder."""
    path = tmp_path / "rex"
    path.mkdir()
    return path


@pytest.fixture
def good(folder: Path) -> Path:
    """Return the folder with one good image in it."""
    Image.new("RGB", (8, 6), (10, 20, 30)).save(folder / "a.png")
    return folder
