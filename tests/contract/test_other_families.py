"""Techniques know no backbone: parts of the contract on backbones of other families."""

from __future__ import annotations

import pytest

from pcs_core.catalogue import catalogue
from pcs_testing import CHECKS, Case

PARTS = ("detaching_restores", "gradients_stay_inside", "subjects_train_as_if_alone")
JOINT = {"weights.kv": {"sites": "joint"}}
"""Settings where text and picture share their attention."""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backbone", ["tiny-video", "tiny-tokens", "tiny-sdxl", "tiny-sd3"])
@pytest.mark.parametrize("id", ["tokens.learnable", "weights.bottleneck", "weights.kv"])
def test_contract(id: str, backbone: str, part: str) -> None:
    settings = JOINT.get(id, {}) if backbone == "tiny-sd3" else {}
    CHECKS[part](Case(catalogue().get("techniques", id), settings, backbone=backbone))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backbone", ["tiny-sdxl", "tiny-sd3"])
def test_image_tokens(backbone: str, part: str) -> None:
    settings = {"tokens": 2, "sites": "joint" if backbone == "tiny-sd3" else "cross"}
    beside = {"tokens.rare": {"identifier": ""}, "encoders.image": {"model": "tiny.image"}}
    technique = catalogue().get("techniques", "attention.parallel_adapter")
    CHECKS[part](Case(technique, settings, backbone=backbone, beside=beside))
