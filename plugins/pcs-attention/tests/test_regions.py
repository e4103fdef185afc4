"""A box reads its own prompt, and the rest of the picture does not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_attention.regions import RegionalAttention, Rewritten, cells
from pcs_core import fit, sample
from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import AttnEdit, AttnState, Box, Conditioning, Fusion, Layout, Subject
from pcs_core.errors import ConflictError
from pcs_testing import build_fusion, make_recipe

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


class Doubled(AttnEdit):
    """Keys and values twice as large, so that a region must see edits of this stage."""

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.v = 2 * state.v
        return state


def masks(*boxes: tuple[float, float, float, float]) -> dict[str, torch.Tensor]:
    by_box = {}
    for k, (left, top, right, bottom) in enumerate(boxes):
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., int(16 * top) : int(16 * bottom), int(16 * left) : int(16 * right)] = 1.0
        by_box[f"box.{k}"] = mask
    return by_box


def outputs(
    backbone: Backbone, regions: dict[str, torch.Tensor], boxes: Any, *more: AttnEdit, **s: Any
) -> dict[str, torch.Tensor]:
    """Return each cross site's attention output [n hd] of the first such site that runs."""
    site = select_sites(backbone.sites, "cross")[0]
    seen: dict[str, torch.Tensor] = {}

    class Recorder(AttnEdit):
        def out(self, state: AttnState, cond: Conditioning) -> AttnState:
            assert state.out is not None
            seen["out"] = state.out[0].detach().clone()
            return state

    edits = [*more, Rewritten(site, s.get("ratio", 1.0)), Recorder(site)]
    for edit in edits:
        edit.owner = "test"
    text = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    level = backbone.process.level(torch.tensor([500]))
    cond = Conditioning(text=text, extra=regions, masks=masks(*boxes))
    with torch.no_grad(), Attachment(backbone, Fusion(edits=tuple(edits))) as net:
        net.evaluate(latents, level, cond)
    return seen


def text(seed: int) -> torch.Tensor:
    return torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(seed))


def test_only_places_in_the_box_change(backbone: Backbone) -> None:
    a, b, c = text(3), text(4), text(5)
    one = outputs(backbone, {"region.0": a, "region.1": b}, (LEFT, RIGHT))["out"]
    two = outputs(backbone, {"region.0": a, "region.1": c}, (LEFT, RIGHT))["out"]
    one, two = (t.unflatten(0, (16, 16)) for t in (one, two))
    assert torch.equal(one[:, :8], two[:, :8])
    assert ((one[:, 8:] - two[:, 8:]).abs().amax(-1) > 0).all()


def test_a_box_over_all_is_the_other_prompt(backbone: Backbone) -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    picture_text = text(1)  # the picture's own prompt
    plain = outputs(backbone, {}, ())["out"]
    same = outputs(backbone, {"region.0": picture_text}, (whole,))["out"]
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-5)
    other = outputs(backbone, {"region.0": text(3)}, (whole,))["out"]
    half = outputs(backbone, {"region.0": text(3)}, (whole,), ratio=0.5)["out"]
    torch.testing.assert_close(half, (plain + other) / 2, rtol=0, atol=1e-5)


def test_overlaps_are_averaged_and_layers_read_their_own(backbone: Backbone) -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    a, b = (outputs(backbone, {"region.0": text(s)}, (whole,))["out"] for s in (3, 4))
    both = outputs(backbone, {"region.0": text(3), "region.1": text(4)}, (whole, whole))["out"]
    torch.testing.assert_close(both, (a + b) / 2, rtol=0, atol=1e-5)
    layered = torch.stack([text(3), *[text(9)] * 3], dim=1)
    actual = outputs(backbone, {"region.0": layered}, (whole,))["out"]
    torch.testing.assert_close(actual, a, rtol=0, atol=1e-5)


def test_a_region_is_projected_with_the_edits_in_force(backbone: Backbone) -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    site = select_sites(backbone.sites, "cross")[0]
    plain = outputs(backbone, {"region.0": text(3)}, (whole,))["out"]
    doubled = outputs(backbone, {"region.0": text(3)}, (whole,), Doubled(site))["out"]
    torch.testing.assert_close(doubled, 2 * plain, rtol=1e-4, atol=1e-5)


def test_a_small_box_has_one_place() -> None:
    box = torch.zeros(1, 1, 16, 16)
    box[..., 3, 3] = 1.0
    assert cells(box, 4)[0, :, 0].nonzero().tolist() == [[0]]
    assert not cells(torch.zeros(1, 1, 16, 16), 4).any()


def test_drawing_with_a_layout(backbone: Backbone) -> None:
    (artifact,) = fit(make_recipe([RegionalAttention()]), Subject("s", concepts=()), backbone)

    def draw(prompt: str) -> torch.Tensor:
        layout = Layout((Box("car", RIGHT, prompt),))
        return sample(artifact, backbone, "a car on the beach", layout=layout, scheduler="ddim")

    plain = sample(artifact, backbone, "a car on the beach", scheduler="ddim")
    assert torch.equal(draw(""), plain)
    assert (draw("a red toy") - plain).abs().max() > 1e-4


def test_two_rewriters_clash(backbone: Backbone) -> None:
    uses = {"a": RegionalAttention(), "b": RegionalAttention()}
    with pytest.raises(ConflictError, match="the out of"):
        build_fusion(make_recipe(uses), [Subject("s", concepts=())], backbone)


def test_each_row_s_box_is_measured_by_itself() -> None:
    boxes = torch.zeros(2, 1, 16, 16)
    boxes[0, :, :8, :8] = 1.0
    boxes[1, :, 15, 15] = 1.0  # a sixteenth of a place of the coarse grid
    where = cells(boxes, 4)
    assert where.shape == (2, 16, 1)
    assert where[0, :, 0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert where[1, :, 0].nonzero().flatten().tolist() == [15]


def test_a_box_smaller_than_a_place_has_the_one_it_covers_most_whatever_other_rows_are() -> None:
    boxes = torch.zeros(2, 1, 16, 16)
    boxes[0] = 1.0
    boxes[1, :, 5, 6:9] = 1.0  # two columns in one place, one in the next
    where = cells(boxes, 4)[..., 0]
    assert where[0].all()
    assert where[1].nonzero().flatten().tolist() == [5]
