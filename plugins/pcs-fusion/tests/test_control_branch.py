"""Key points are drawn where they are, and the branch needs some."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pcs_core.data import BranchEdit, Conditioning, Features
from pcs_core.errors import InputError
from pcs_fusion.control_branch import ControlBranch, PointBranch
from pcs_fusion.key_points import COLOURS, draw_face, draw_points
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
    draw = partial(draw_points, size=(16, 16), radius=0.1)
    return PointBranch("control", Network(), "face", draw, points)


def cond(strength: float, **extra: torch.Tensor) -> Conditioning:
    return Conditioning(
        text=torch.randn(1, 2, 3),
        streams={"face": torch.ones(1, 2, 3)},
        extra={"control.scale": torch.tensor([strength]), **extra},
    )


def test_given_points_win_over_the_references_own() -> None:
    latents, time = torch.zeros(1, 4, 2, 2), torch.tensor([1])
    whole = branch(POINTS).residuals(latents, time, cond(1.0))
    far = torch.full((1, 5, 2), -9.0)
    given = branch(POINTS).residuals(latents, time, cond(1.0, points=far))
    assert float(whole[1]) > 0.0
    assert float(given[1]) == 0.0
    half = branch(POINTS).residuals(latents, time, cond(0.5))
    torch.testing.assert_close(half[1], whole[1] / 2)


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
    points = points_of(points=POINTS[0].tolist())
    assert points is not None
    torch.testing.assert_close(points, POINTS)


FACE = [[0.36, 0.41], [0.63, 0.38], [0.52, 0.55], [0.41, 0.68], [0.64, 0.66]]


def released(points: list[list[float]], side: int) -> torch.Tensor:
    """Draw as the authors do, by OpenCV: limbs as polygons of whole pixels, dimmed, then discs."""
    cv2 = pytest.importorskip("cv2")
    picture = np.zeros((side, side, 3))
    at = [(x * side, y * side) for x, y in points]
    inks = [tuple(255 * c for c in colour) for colour in COLOURS]
    for first in (0, 1, 3, 4):
        (ax, ay), (bx, by) = at[first], at[2]
        middle = (int((ax + bx) / 2), int((ay + by) / 2))
        reach = math.hypot(ax - bx, ay - by)
        turn = int(math.degrees(math.atan2(ay - by, ax - bx)))
        outline = cv2.ellipse2Poly(middle, (int(reach / 2), 4), turn, 0, 360, 1)
        picture = cv2.fillConvexPoly(picture, outline, inks[first])
    picture = (picture * 0.6).astype(np.uint8)
    for place, ink in zip(at, inks, strict=True):
        picture = cv2.circle(picture, (int(place[0]), int(place[1])), 10, ink, -1)
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def test_a_face_is_drawn_as_the_released_code_draws_it() -> None:
    """Limbs and discs of the published sizes, at the 1024 pixels they are for: all but edges are equal."""
    expected = released(FACE, 1024)
    actual = draw_face(torch.tensor([FACE]), (1024, 1024), 10 / 1024, 4 / 1024)[0]
    lit, drawn = expected.amax(0) > 0, actual.amax(0) > 0
    assert float((lit & drawn).sum() / (lit | drawn).sum()) > 0.93
    inner = torch.nn.functional.max_pool2d(-lit[None].float(), 5, 1, 2)[0] == -1  # 2 pixels within
    unlike = ((expected - actual).abs().amax(0) > 0.01) & inner
    assert float(unlike.sum() / inner.sum()) < 0.02


def test_limbs_join_the_points_to_the_nose_dimmed() -> None:
    points = torch.tensor([FACE])
    picture = draw_face(points, (200, 200), 0.02, 0.01)
    for index in (0, 1, 3, 4):
        x, y = (points[0, index] + points[0, 2]) / 2
        ink = picture[0, :, int(y * 200), int(x * 200)]
        torch.testing.assert_close(ink, 0.6 * torch.tensor(COLOURS[index]))
    for (x, y), colour in zip(FACE, COLOURS, strict=True):
        assert picture[0, :, int(y * 200), int(x * 200)].tolist() == list(colour)


def test_a_limb_without_an_end_is_left_out() -> None:
    absent = torch.full((1, 5, 2), -9.0)
    assert float(draw_face(absent, (32, 32), 0.1, 0.05).max()) == 0.0
    one = torch.tensor([FACE])
    one[0, 2] = -9.0  # without the nose there is no limb
    alone = draw_face(one, (64, 64), 0.05, 0.02)
    assert set(alone.unique().tolist()) == {0.0, 1.0}, "discs in full colours, nothing dimmed"
    assert (
        0.6
        in draw_face(torch.tensor([FACE]), (64, 64), 0.05, 0.02)
        .double()
        .round(decimals=6)
        .unique()
        .tolist()
    )


def test_a_copy_of_sdxl_is_told_the_prompt_s_pooled_state() -> None:
    """As in the released pipeline; its cross-attention reads the tokens of the face alone."""
    seen: list[Any] = []

    class Reader(Network):
        reads_pooled = True

        def forward(self, *given: Any) -> Any:
            seen.append(given)
            return super().forward(*given[:4])

    edit = PointBranch(
        "control", Reader(), "face", partial(draw_points, size=(8, 8), radius=0.1), POINTS
    )
    pooled = torch.randn(1, 6)
    edit.residuals(torch.zeros(1, 4, 2, 2), torch.tensor([1]), cond(1.0).with_(pooled=pooled))
    assert seen[0][4] is pooled
