"""A mask weighs a term of guidance per position of the latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, hookimpl, open_backbone, sample
from pcs_core.data import Branch, Features, Fusion, GuidanceTerm, Prediction, SampleStep
from pcs_core.errors import CapabilityError
from pcs_engine import fit
from pcs_testing import make_recipe, make_subject

SEEN: list[torch.Tensor] = []


class Left(Technique):
    """Guides towards another prompt where the mask says so, and keeps what was predicted."""

    id = "test.left"
    inside: str = "left"

    @hookimpl
    def extract(self, run: Any) -> Features:
        half = torch.zeros(1, 8, 8)
        half[:, :, :4] = 1.0
        return Features(tensors={"left": half}, keep=("left",))

    @hookimpl
    def fuse(self) -> Fusion:
        term = GuidanceTerm(Branch("a red car"), Branch(""), 3.0, mask=self.inside or None)
        return Fusion(guidance=(term,))

    @hookimpl(wrapper=True)
    def sample(self, step: SampleStep) -> Any:
        prediction: Prediction = yield
        SEEN.append(prediction.x0 - step.positive)
        return prediction


def drawn(**settings: Any) -> torch.Tensor:
    backbone = open_backbone("tiny")
    artifact = fit(make_recipe({"left": Left(**settings)}), make_subject(), backbone)[0]
    SEEN.clear()
    sample(artifact, backbone, "a <fido>", steps=1, scale=1.0, seed=0)
    return SEEN[0]


def test_the_term_acts_inside_of_the_mask_alone() -> None:
    masked, whole = drawn(), drawn(inside="")
    half = masked.shape[-1] // 2
    assert torch.allclose(masked[..., :half], whole[..., :half], atol=1e-6)
    assert masked[..., half:].abs().max() == 0
    assert whole[..., half:].abs().max() > 0


def test_a_mask_that_nobody_gives_is_named() -> None:
    with pytest.raises(CapabilityError, match="by the mask 'right', and there is none"):
        drawn(inside="right")
