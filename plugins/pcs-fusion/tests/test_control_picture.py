"""Maps of a T2I-Adapter are diffusers'; what reads a control picture adds nothing without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import T2IAdapter

from pcs_core import sample
from pcs_core.backbone import Attachment
from pcs_core.data import Layout
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.tiny import tiny_sd3
from pcs_fusion.control_picture import ControlPicture, map_places
from pcs_fusion.picture_maps import PictureMaps
from pcs_testing import build_fusion, evaluate_attached, make_recipe, make_subject, perturb

WIDTHS = [16, 32, 64, 64]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("form", "kind", "options"),
    [
        ("full", "full_adapter", {"channels": WIDTHS}),
        ("xl", "full_adapter_xl", {"channels": WIDTHS, "downscale_factor": 16}),
        ("light", "light_adapter", {"channels": WIDTHS[:3]}),
    ],
)
def test_maps_are_those_of_diffusers(
    form: Any, kind: str, options: dict[str, Any], channels: int
) -> None:
    theirs = T2IAdapter(in_channels=channels, num_res_blocks=3, adapter_type=kind, **options)
    ours = PictureMaps(form, WIDTHS, channels=channels, depth=3)
    ours.load_state_dict(theirs.adapter.state_dict())
    picture = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    grey = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        pairs = zip(ours(picture), theirs(picture if channels == 3 else grey), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["control", "full"])
def test_without_a_picture_nothing_is_added_and_it_is_said(
    form: str, backbone: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fusion = build_fusion(make_recipe([ControlPicture(form=form)]), [make_subject()], backbone)
    perturb(fusion)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        ours = evaluate_attached(net, ["a red toy"])
        plain = evaluate_attached(net, ["a red toy"], model="base")
    assert torch.equal(ours.output, plain.output)


def test_sides_that_an_adapter_cannot_read_are_refused(backbone: Any) -> None:
    maps = build_fusion(
        make_recipe([ControlPicture(form="full")]), [make_subject()], backbone
    ).edits
    (branch,) = [edit for edit in maps if hasattr(edit, "maps")]
    cond: Any = type("Cond", (), {"extra": {"layout.picture": torch.rand(1, 3, 36, 32)}})()
    with pytest.raises(InputError, match=r"32 x 36 pixels cannot be read: sides .* of 8"):
        branch.residuals(torch.zeros(1, 4, 4, 4), torch.tensor([1]), cond)


def test_maps_stand_on_the_way_down_and_in_the_middle(backbone: Any) -> None:
    class Run:
        @staticmethod
        def sites(glob: str) -> Any:
            return [s for s in backbone.sites if s.kind == glob]

    run: Any = Run()
    names = [place.name for place in map_places(run)]
    down = [n for n in names if n.startswith("down_blocks.")]
    assert len(down) == len(backbone.denoiser.down_blocks)
    assert names[len(down) :] == ["mid_block.after_block"]
    crossed = [hasattr(b, "attentions") for b in backbone.denoiser.down_blocks]
    assert [".attentions." in name for name in down] == crossed


def test_networks_without_blocks_refuse_an_adapter() -> None:
    with pytest.raises(CapabilityError, match="names no place 'after_transformer'"):
        build_fusion(make_recipe([ControlPicture(form="full")]), [make_subject()], tiny_sd3())


def test_a_picture_that_nothing_reads_is_refused(backbone: Any) -> None:
    with pytest.raises(InputError, match="the untuned backbone reads no control picture"):
        sample(None, backbone, "a toy", layout=Layout(picture=torch.rand(3, 32, 32)), steps=1)
