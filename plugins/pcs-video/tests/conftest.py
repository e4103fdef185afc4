"""A tiny video network of the real classes, opened once per module, and a subject of one clip."""

from __future__ import annotations

import pytest
import torch

from pcs_core import open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Subject


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny-video")


@pytest.fixture(scope="module")
def subject() -> Subject:
    clip = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return Subject("run", (Concept("run", "<run>", "dog"),), (clip,), (None,), files=("a",))
