"""Masks beside pictures, and the error they weigh."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import LOSS, Example, Features, MaskQuery, Phase, Subject
from pcs_core.errors import InputError
from pcs_masks.given import GivenMasks, cover
from pcs_masks.masked_loss import MaskedLoss, elsewhere
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_testing.whole_run import make_references

STEPS: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append(step)


class Others(Technique):
    id = "test.others"

    @hookimpl
    def extract(self, moment: str) -> Features:
        return Features(examples=(Example(torch.rand(3, 32, 32), ("a dog",), role="prior"),))


def masked(images: int = 1) -> Subject:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    return replace(make_subject(images=images), masks={"fido": (left,) * images})


def step_of(backbone: Backbone, subject: Subject, *, index: int = 0, **settings: Any) -> Any:
    STEPS.clear()
    phase = Phase("p", index + 1, batch={"subject": 1, "prior": 1}, lr={"*": 0.0})
    fit(make_recipe([Spy(), Others(), MaskedLoss(**settings), Probe()], phase), subject, backbone)
    return STEPS[index]


@pytest.mark.parametrize(
    ("settings", "left", "right"),
    [
        ({}, 1.0, 0.0),
        ({"background": 0.25}, 1.0, 0.25),
        ({"invert": True}, 0.0, 1.0),
        ({"normalise": True}, 2.0, 0.0),
        ({"normalise": True, "channels": "sum"}, 8.0, 0.0),
        ({"channels": "sum"}, 4.0, 0.0),
        ({"probability": 0.0}, 1.0, 1.0),
    ],
)
def test_the_error_counts_inside(
    backbone: Backbone, settings: dict[str, Any], left: float, right: float
) -> None:
    step = step_of(backbone, masked(), **settings)
    mask = step.masks.get(LOSS)
    rows = dict(zip(step.batch.roles, mask, strict=True))
    assert rows["subject"][..., :8].unique().tolist() == pytest.approx([left])
    assert rows["subject"][..., 8:].unique().tolist() == pytest.approx([right])
    assert torch.equal(rows["prior"], torch.ones_like(mask[0]))


def test_an_example_without_a_region_counts_in_full(backbone: Backbone) -> None:
    assert step_of(backbone, make_subject()).masks.get(LOSS) is None


def test_without_a_region_the_sum_over_channels_stays(backbone: Backbone) -> None:
    step = step_of(backbone, make_subject(), channels="sum")
    mask = step.masks.get(LOSS)
    assert [float(m.unique()) for m in mask] == [4.0, 1.0]


def test_clips_without_a_region_have_one_mask_for_all_frames() -> None:
    STEPS.clear()
    phase = Phase("p", 1, batch={"subject": 3}, lr={"*": 0.0})
    recipe = make_recipe([Spy(), MaskedLoss(channels="sum"), Probe()], phase)
    fit(recipe, make_references(clips=True), open_backbone("tiny-video"))
    mask = STEPS[0].masks.get(LOSS)
    assert torch.equal(mask, torch.full((3, 1, 8, 8), 4.0))


def test_a_normalised_error_is_the_mean_over_the_region(backbone: Backbone) -> None:
    """Mix-of-Show: the sum over channels and places of the region, over its number of places."""
    from pcs_engine.builtin import CoreDenoise

    step = step_of(backbone, masked(), normalise=True, channels="sum")
    row = step.batch.roles.index("subject")
    actual = CoreDenoise().regularize(step).value[row]
    expected = step.error[row][:, :, :8].sum() / (16 * 8)
    torch.testing.assert_close(actual, expected)


def test_half_of_the_rows_are_masked_the_same_in_every_run(backbone: Backbone) -> None:
    runs = []
    for _ in range(2):
        step_of(backbone, masked(), index=19, probability=0.5)
        runs.append([float(s.masks.get(LOSS)[0].min()) for s in STEPS])
    assert runs[0] == runs[1]
    assert 3 < sum(runs[0]) < 17


def test_given_masks_follow_the_picture(backbone: Backbone) -> None:
    wide = torch.zeros(1, 40, 80)
    wide[..., :40] = 1.0
    subject = replace(masked(), masks={"fido": (wide,)})
    query = MaskQuery("subject", subject, size=(32, 32))
    mask = GivenMasks().mask(query).get("fido")
    assert tuple(mask.shape) == (1, 1, 32, 32)
    assert float(mask[..., :15].min()) > 0.99
    assert float(mask[..., 17:].max()) < 0.01


@pytest.mark.parametrize(
    ("shape", "size", "first", "last"),
    [
        ((20, 40), (32, 32), (0.0, 0.25), (1.0, 0.75)),  # wide: the sides go
        ((40, 20), (32, 32), (0.25, 0.0), (0.75, 1.0)),  # high: above and below
        ((16, 16), (16, 48), (1 / 3, 0.0), (2 / 3, 1.0)),  # enlarged threefold
        ((60, 80), (32, 16), (0.0, 5 / 16), (1.0, 11 / 16)),  # made smaller
    ],
)
def test_a_mask_is_cut_like_its_picture(
    shape: tuple[int, int], size: tuple[int, int], first: Any, last: Any
) -> None:
    """Masks whose values say a place's row or column, in 0..1: the cut one begins and ends where it should."""
    rows = ((torch.arange(shape[0]) + 0.5) / shape[0])[:, None].expand(shape)
    columns = ((torch.arange(shape[1]) + 0.5) / shape[1]).expand(shape)
    for axis, ramp in enumerate((rows, columns)):
        line = cover(ramp[None], size)[0].mean(1 - axis)
        assert line.shape == (size[axis],)
        inner = slice(
            size[axis] // 4, -(size[axis] // 4)
        )  # away from the ends, where scaling flattens
        expected = torch.linspace(0, 1, 2 * size[axis] + 1)[1::2]
        expected = first[axis] + (last[axis] - first[axis]) * expected
        torch.testing.assert_close(line[inner], expected[inner], atol=0.02, rtol=0)


def test_a_missing_mask_is_named() -> None:
    query = MaskQuery("subject", make_subject(), size=(32, 32))
    assert GivenMasks().mask(query) is None
    with pytest.raises(InputError, match=r"fido-0.png has no mask: lay fido-0.mask.png"):
        GivenMasks(required=True).mask(query)


def masks_of(spans: dict[str, Any], *, rows: int = 2, index: int = 0, **settings: Any) -> Any:
    """Return the weights of a step whose rows have a subject left (0) and right (1)."""
    left = torch.zeros(rows, 1, 4, 4)
    left[..., :2] = 1.0
    batch = SimpleNamespace(
        regions={"mask.concept.0": left, "mask.concept.1": left.flip(-1)},
        rows=lambda role: torch.ones(rows, dtype=torch.bool),
        latents=torch.zeros(rows, 4, 4, 4),
    )
    step: Any = SimpleNamespace(batch=batch, cond=SimpleNamespace(spans=spans), index=index)
    run: Any = SimpleNamespace(seed=0)
    masks = MaskedLoss(**settings).mask(run, MaskQuery("batch", step=step, size=(4, 4)))
    assert masks is not None
    return masks.get(LOSS)


def test_a_region_counts_where_its_word_is_said_and_a_row_without_any_has_no_error() -> None:
    """FastComposer's masks hold the subjects that the text names; an unconditional row is masked whole."""
    spans = {"concept.0": torch.tensor([[3], [-1]]), "concept.1": torch.tensor([[-1], [-1]])}
    mask = masks_of(spans, spoken=True)
    assert mask[0, 0, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert not mask[1].any()
    heard = masks_of(spans)
    assert heard.all(), "without it every region counts"


def test_other_weights_have_a_mean_of_one_where_a_picture_stands_on_a_ground() -> None:
    covered = torch.zeros(2, 1, 8, 8)
    covered[0, :, :, :5] = 1.0  # with the column beside the ground left out, four of eight columns
    batch: Any = SimpleNamespace(masks={}, regions={"mask.valid.small": covered})
    weights = elsewhere(batch)
    assert isinstance(weights, torch.Tensor)
    assert weights[0, 0, 0].tolist() == [2.0] * 4 + [0.0] * 4
    assert bool((weights[1] == 1).all()), "a row without a ground around it counts as it is"
    batch.masks = {LOSS: torch.full((2, 1, 8, 8), 3.0)}
    assert torch.equal(elsewhere(batch), 3 * weights)  # type: ignore[arg-type]
    assert elsewhere(SimpleNamespace(masks={}, regions={})) == 1.0  # type: ignore[arg-type]


def test_all_rows_of_a_step_are_masked_or_none() -> None:
    """FastComposer draws once a batch, and masks half of the batches."""
    spans = {"concept.0": torch.full((8, 1), 2), "concept.1": torch.full((8, 1), -1)}
    masked_steps = 0
    for index in range(40):
        mask = masks_of(spans, rows=8, index=index, spoken=True, draw="step", probability=0.5)
        per_row = mask.flatten(1).amin(1)
        assert len(set(per_row.tolist())) == 1
        masked_steps += int(per_row[0] == 0)
    assert 12 <= masked_steps <= 28
