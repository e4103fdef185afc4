"""Selectors of layers mean the same in every family."""

from __future__ import annotations

import pytest

from pcs_core import open_backbone
from pcs_core.backbone import select_sites
from pcs_core.backbone.sites import KNOWN_ROLES, is_selector
from pcs_core.data import Recipe
from pcs_core.errors import CapabilityError, RecipeError
from pcs_engine.run import EngineRun

FAMILIES = (
    *("tiny", "tiny-sdxl", "tiny-sd3", "tiny-video", "tiny-animatediff", "tiny-tokens"),
    "mini",
)
EQUAL = [
    (
        "*.to_q|*.to_k|*.to_v|*.to_out.0",
        "attention.*.q|attention.*.k|attention.*.v|attention.*.out",
        "denoiser",
    ),
    ("*self_attn.*", "attention.self.*", "text"),
    ("*.attentions.*.attn1.*|*.attentions.*.ff.*", "attention.self.*|ff.*", "denoiser"),
    (
        "*temp_attentions.*.attn?.*|*temp_attentions.*.ff.*|transformer_in.*.attn?.*|transformer_in.*.ff.*"
        "|*motion_modules.*.attn?.*|*motion_modules.*.ff.*",
        "temporal.*",
        "denoiser",
    ),
]
"""Globs over module names, the selectors that choose the same layers, and the part."""


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize(("glob", "selector", "part"), EQUAL)
def test_a_selector_chooses_what_the_names_chose(
    backbone: str, glob: str, selector: str, part: str
) -> None:
    if backbone in ("tiny-sd3", "tiny-tokens") and "attentions" in glob:
        pytest.skip("no module of this family has the name")
    sites = open_backbone(backbone).sites
    by_name = select_sites(sites, glob, kind="linear", part=part)
    assert select_sites(sites, selector, kind="linear", part=part) == by_name


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_role_is_known_and_every_family_has_some(backbone: str) -> None:
    sites = open_backbone(backbone).sites
    roles = {site.role for site in sites} - {""}
    assert roles <= set(KNOWN_ROLES)
    assert {"attention.self.q", "ff.in", "ff.out"} <= roles
    for site in sites:
        if site.kind in ("self", "cross", "joint"):
            assert site.role == f"attention.{site.kind}"
            made = [s for s in sites if s.name.startswith(f"{site.name}.") and s.role]
            assert {s.role.rpartition(".")[2] for s in made} >= {"q", "k", "v", "out"}


def test_joint_layers_of_picture_and_text_are_told_apart() -> None:
    sites = open_backbone("tiny-sd3").sites
    picture = select_sites(sites, "attention.joint.q")
    text = select_sites(sites, "attention.joint.text_q")
    assert [s.name.rpartition(".")[2] for s in picture] == ["to_q"] * 3
    assert [s.name.rpartition(".")[2] for s in text] == ["add_q_proj"] * 3
    assert select_sites(sites, "attention.joint") == select_sites(sites, "joint")


def test_a_place_narrows_a_selector() -> None:
    sites = open_backbone("tiny").sites
    everywhere = select_sites(sites, "attention.cross.k")
    parts = [select_sites(sites, f"attention.cross.k@{place}") for place in ("down", "mid", "up")]
    assert all(parts)
    assert sorted(s.name for part in parts for s in part) == sorted(s.name for s in everywhere)
    assert {s.block for s in select_sites(sites, "cross@up.1")} == {"up.1"}
    assert {s.scale for s in select_sites(sites, "cross@scale=2")} == {2}
    assert select_sites(sites, "cross@mid|self@mid") == select_sites(sites, "attention@mid")
    assert select_sites(sites, "attention.cross@up") == select_sites(sites, "cross@up")


def test_time_is_apart_and_part_of_attention() -> None:
    sites = open_backbone("tiny-video").sites
    time = select_sites(sites, "temporal.attention.q")
    assert time
    assert not set(time) & set(select_sites(sites, "attention.self.q|attention.cross.q"))
    assert set(time) < set(select_sites(sites, "attention.*.q"))
    assert select_sites(sites, "attention.temporal.q") == time


def test_a_role_that_no_network_has_is_refused() -> None:
    sites = open_backbone("tiny").sites
    with pytest.raises(RecipeError, match=r"'attention.cros.k', did you mean 'attention.cross.k'"):
        select_sites(sites, "attention.cros.k")
    assert not is_selector("up_blocks.1.*")
    assert not is_selector("*.to_q")


def test_cross_attention_of_a_joint_network_is_refused_by_name() -> None:
    run = EngineRun(Recipe("test"), open_backbone("tiny-sd3"))
    with pytest.raises(CapabilityError, match="acts on cross-attention.*3 more|2 more joint"):
        run.sites("attention.cross.k|attention.cross.v")


def test_parameters_are_chosen_by_the_same_selectors() -> None:
    run = EngineRun(Recipe("test"), open_backbone("tiny"))
    chosen = run.parameters("denoiser", "attention.cross.k|attention.cross.v")
    names = {s.name for s in run.sites("attention.cross.k|attention.cross.v")}
    assert set(chosen) == {f"{name}.weight" for name in names}
