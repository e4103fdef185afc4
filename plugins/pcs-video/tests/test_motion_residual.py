"""The error of motion: what all frames share is taken out, and what changes counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Subject
from pcs_core.errors import CapabilityError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_video.motion_residual import MotionResidual, debiased


class Step:
    """The part of a fit step that the technique reads."""

    phase, index = "p", 0

    def __init__(self, error: torch.Tensor) -> None:
        rng = torch.Generator().manual_seed(1)
        self.target = torch.randn(error.shape, generator=rng)
        self.output, self.noisy = self.target + error, error
        self.batch = self
        self.subject, self.subjects = torch.zeros(len(error), dtype=torch.long), 1

    def rows(self, role: str) -> torch.Tensor:
        return torch.ones(len(self.noisy), dtype=torch.bool)


class Run:
    def subject_rng(self, subject: int, purpose: str) -> Any:
        import random

        return random.Random(purpose)


def term(error: torch.Tensor, **settings: Any) -> torch.Tensor:
    loss: Any = MotionResidual(**settings).regularize(run=Run(), step=Step(error))  # type: ignore[arg-type]
    return loss.value


def test_an_error_shared_by_all_frames_counts_less() -> None:
    still = torch.randn(2, 4, 1, 3, 3).expand(-1, -1, 5, -1, -1)
    plain = still.square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(term(still, beta=1.0), (2**0.5 - 1) ** 2 * plain)
    torch.testing.assert_close(term(still, beta=0.0), plain)


def test_an_error_that_moves_counts_more() -> None:
    moving = torch.randn(2, 4, 5, 3, 3)
    plain = moving.square().mean(dim=(1, 2, 3, 4))
    assert (term(moving, beta=1.0) > plain).all()


def test_the_anchor_keeps_its_own_share() -> None:
    x = torch.randn(1, 2, 4, 3, 3)
    taken = debiased(x, torch.tensor([2]), 1.0)
    torch.testing.assert_close(taken[:, :, 2], (2**0.5 - 1) * x[:, :, 2])
    torch.testing.assert_close(taken[:, :, 0], 2**0.5 * x[:, :, 0] - x[:, :, 2])


def test_differences_do_not_see_what_is_shared() -> None:
    still = torch.randn(2, 4, 1, 3, 3).expand(-1, -1, 5, -1, -1)
    assert term(still, form="difference").abs().max() < 1e-5
    assert term(torch.randn(2, 4, 5, 3, 3), form="difference").min() > 1e-3


def test_each_subject_has_an_anchor_of_its_own_in_each_step() -> None:
    technique, step = MotionResidual(), Step(torch.zeros(2, 4, 16, 3, 3))
    step.subject, step.subjects = torch.tensor([0, 1]), 2

    class Named(Run):
        def subject_rng(self, subject: int, purpose: str) -> Any:
            return super().subject_rng(subject, f"{subject}/{purpose}")

    drawn = []
    for step.index in range(8):
        drawn.append(technique._anchors(Named(), step, 16).tolist())  # type: ignore[arg-type]
    assert len({a for a, _ in drawn}) > 2
    assert any(a != b for a, b in drawn)
    assert technique._anchors(Named(), step, 16).tolist() == drawn[-1]  # type: ignore[arg-type]


def test_it_trains_on_clips_and_refuses_pictures(backbone: Backbone, subject: Subject) -> None:
    uses = [MotionResidual(), Probe(sites="temporal")]
    (artifact,) = fit(make_recipe(uses, Phase("p", 2, lr={"*": 1e-2})), subject, backbone)
    assert artifact.losses["video.motion_residual"] > 0
    with pytest.raises(CapabilityError, match="motion needs clips"):
        fit(make_recipe([MotionResidual(), Probe()], Phase("p", 1)), make_subject(), "tiny")
