"""Techniques know no backbone: parts of the contract on a backbone of clips and on one of tokens."""

from __future__ import annotations

import pytest

from pcs_core.catalogue import catalogue
from pcs_core.testing import CHECKS, Case

PARTS = ("detaching_restores", "gradients_stay_inside", "subjects_train_as_if_alone")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backbone", ["tiny-video", "tiny-tokens"])
@pytest.mark.parametrize("id", ["tokens.learnable", "weights.bottleneck", "weights.kv"])
def test_contract(id: str, backbone: str, part: str) -> None:
    CHECKS[part](Case(catalogue().get("techniques", id), backbone=backbone))
