"""The contract over every technique that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pcs_core.catalogue import catalogue
from pcs_testing import CHECKS, Case, check_pair

IMAGE = {"tokens.rare": {"identifier": ""}, "encoders.image": {"model": "tiny.image"}}
FACE = {
    "encoders.face": {"model": "tiny.face"},
    "attention.parallel_adapter": {"key": "face", "strength": 0.0},
}
AFFORDABLE: dict[str, dict[str, Any]] = {
    "attention.parallel_adapter": {"settings": {"tokens": 2}, "beside": IMAGE},
    "encoders.face": {"settings": {"model": "tiny.face"}},
    "encoders.image": {"settings": {"model": "tiny.image"}},
    "fusion.control_branch": {"settings": {"width": 0.5}, "beside": FACE},
    "fusion.token_output": {"settings": {"hidden": 8}, "beside": IMAGE},
    "defense.perturbation": {"settings": {"weight": 2.0}},
    "three_d.canvas": {
        "settings": {"size": 16, "cells": 6, "samples": 8, "random_background": 0.0},
        "roles": {"canvas": 1},
    },
    "data.augment": {"settings": {"variants": 2, "crop": 0.2, "rescale": [0.5, 1.3]}},
    "inversion.ddim": {"settings": {"steps": 3}},
    "regularizers.prior_preservation": {
        "settings": {"count": 2, "steps": 2},
        "roles": {"subject": 1, "prior": 1},
    },
    "video.motion_residual": {"backbone": "tiny-video"},
    "video.noise_prior": {"settings": {"steps": 2}},
    "weights.peft": {"settings": {"sites": "*.attn2.to_k|*.attn2.to_v"}},
}
"""How to try a technique where its defaults are more than a test can pay for."""


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_contract(id: str, check: Callable[[Case], None]) -> None:
    check(Case(catalogue().get("techniques", id), **AFFORDABLE.get(id, {})))


def case(id: str) -> Case:
    return Case(catalogue().get("techniques", id), **AFFORDABLE.get(id, {}))


@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_pairs(id: str) -> None:
    """Every technique beside every one that comes after it in the alphabet, where both can run."""
    first = case(id)
    refused = []
    for other in catalogue().ids("techniques"):
        second = case(other)
        if other > id and second.backbone == first.backbone and not check_pair(first, second):
            refused.append(other)
    # weights and words are exclusive; most of what there is goes together
    assert len(refused) <= len(catalogue().ids("techniques")) // 2, f"refused beside {refused}"
