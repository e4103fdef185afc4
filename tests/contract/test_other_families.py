"""Techniques know no backbone: parts of the contract on backbones of other families."""

from __future__ import annotations

import pytest

from pcs_core.backbone import Attachment
from pcs_core.catalogue import catalogue
from pcs_core.errors import CapabilityError
from pcs_testing import CHECKS, Case

PARTS = ("detaching_restores", "gradients_stay_inside", "subjects_train_as_if_alone")
JOINT = {"weights.kv": {"sites": "joint"}}
"""Settings where text and picture share their attention."""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "backbone",
    ["tiny-video", "tiny-animatediff", "tiny-tokens", "tiny-sdxl", "tiny-sd3", "tiny-flux"],
)
@pytest.mark.parametrize("id", ["tokens.learnable", "weights.bottleneck", "weights.kv"])
def test_contract(id: str, backbone: str, part: str) -> None:
    settings = JOINT.get(id, {}) if backbone in ("tiny-sd3", "tiny-flux") else {}
    CHECKS[part](Case(catalogue().get("techniques", id), settings, backbone=backbone))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backbone", ["tiny-sdxl", "tiny-sd3"])
def test_image_tokens(backbone: str, part: str) -> None:
    settings = {"tokens": 2, "sites": "joint" if backbone == "tiny-sd3" else "cross"}
    beside = {"tokens.rare": {"identifier": ""}, "encoders.image": {"model": "tiny.image"}}
    technique = catalogue().get("techniques", "attention.parallel_adapter")
    CHECKS[part](Case(technique, settings, backbone=backbone, beside=beside))


def joint_case(id: str) -> Case:
    """Return a technique with its tiny settings at sites where text and picture share attention."""
    technique = catalogue().get("techniques", id)
    settings = dict(technique.tiny)
    if technique.from_settings(settings).settings().get("sites") in ("cross", "self"):
        settings["sites"] = "joint"
    # the last block gives no text: what the text asks there reaches nothing
    return Case(technique, settings, backbone="tiny-sd3", unreached=("*.2.attn.*add*_q*",))


@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_joint_sites(id: str) -> None:
    """Where a technique can act on SD 3, the contract holds there; where not, it says so by name."""
    case = joint_case(id)
    try:
        fusion = case.fusion()
        with Attachment(case.open(), fusion):
            pass
    except CapabilityError as error:
        pytest.skip(str(error))
    for part in (
        *PARTS,
        "rows_are_apart",
        "constants_follow_the_device",
        "everything_is_registered",
    ):
        CHECKS[part](case)
