"""A tiny network of the real classes, opened once per module."""

from __future__ import annotations

import pytest

from pcs_core.backbone import Backbone
from pcs_engine import open_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")
