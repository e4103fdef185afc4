"""Key points are drawn where they are, and the branch needs some."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pcs_core.data import BranchEdit, Conditioning, Features
from pcs_core.errors import InputError
from pcs_fusion.control_branch import COLOURS, ControlBranch, PointBranch, draw_points
from pcs_testing import make_subject

POINTS = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.3, 0.8], [0.7, 0.8]]])


def test_each_point_is_a_disc_of_its_colour() -> None:
    picture = draw_points(POINTS, (40, 40), 0.05)
    assert picture.shape == (1, 3, 40, 40)
    for (x, y), colour in zip(POINTS[0].tolist(), COLOURS, strict=True):
        assert picture[0, :, int(y * 40), int(x * 40)].tolist() == list(colour)
    lit = picture.amax(1)[0]
    assert float(lit.sum()) == pytest.approx(5 * 3.1416 * 2**2, rel=0.35)
    assert float(lit[0].max()) == 0.0


def test_points_outside_draw_nothing() -> None:
    assert float(draw_points(torch.full((1, 5, 2), -9.0), (16, 16), 0.1).max()) == 0.0


class Network(nn.Module):
    def forward(self, latents: Any, time: Any, text: Any, image: Any) -> Any:
        return [image.mean() + text.mean() + torch.zeros(1, 1, 1, 1)], image.mean().view(1, 1, 1, 1)


def branch(points: torch.Tensor | None) -> PointBranch:
    return PointBranch("control", Network(), "face", (16, 16), 0.1, points)


def cond(strength: float, **extra: torch.Tensor) -> Conditioning:
    return Conditioning(
        text=torch.randn(1, 2, 3),
        streams={"face": torch.ones(1, 2, 3)},
        extra={"control.scale": torch.tensor([strength]), **extra},
    )


def test_given_points_win_over_the_references_own() -> None:
    latents, time = torch.zeros(1, 4, 2, 2), torch.tensor([1])
    own = branch(POINTS).residuals(latents, time, cond(1.0))
    far = torch.full((1, 5, 2), -9.0)
    given = branch(POINTS).residuals(latents, time, cond(1.0, points=far))
    assert float(own[1]) > 0.0
    assert float(given[1]) == 0.0
    half = branch(POINTS).residuals(latents, time, cond(0.5))
    torch.testing.assert_close(half[1], own[1] / 2)


def test_no_points_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="no detector finds them.*give --layout with points"):
        branch(None).residuals(torch.zeros(1, 4, 2, 2), torch.tensor([1]), cond(1.0))


def test_references_without_points_count_as_none() -> None:
    """What `extract` keeps of them is told from points that lie in the picture."""

    def points_of(**extra: Any) -> torch.Tensor | None:
        technique = ControlBranch.from_settings({})
        subject = replace(make_subject(images=1), extra=(extra,))
        run: Any = SimpleNamespace(
            image_size=(16, 16), control_network=lambda channels, width: Network()
        )
        kept = technique.extract(run, subject, "start")
        assert kept is not None
        fusion = technique.fuse(
            run, Features(tensors={k: v[None] for k, v in kept.tensors.items()})
        )
        return fusion.of(BranchEdit)[0].points

    assert points_of() is None
    found = points_of(points=POINTS[0].tolist())
    assert found is not None
    torch.testing.assert_close(found, POINTS)
