"""Skeletons have the layout of the releases; a recipe says of each family that it runs there or why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core import fit, load_recipe, pretrain
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Recipe
from pcs_core.errors import CapabilityError, InputError
from pcs_testing.whole_run import FEWER, TwoRecords, fewer_settings, make_references

FAMILIES = ("sd", "sdxl", "sd3", "flux", "flux-kontext", "video", "animatediff", "tokens")
CLIPS = {"video", "animatediff"}
"""Families that draw clips."""
SYSTEMS = sorted(catalogue().recipe_files())
TEXT = {
    "sd": 768,
    "sdxl": 2048,
    "sd3": 4096,
    "flux": 4096,
    "video": 1024,
    "animatediff": 768,
    "tokens": 768,
}
"""Channels of the text that each release's denoiser is given."""
CHANNELS = {"sd": 4, "sdxl": 4, "sd3": 16, "flux": 16, "video": 4, "animatediff": 4, "tokens": 1}
SITES = {"sd": 16, "sdxl": 70, "sd3": 24, "flux": 57, "video": 16, "animatediff": 16, "tokens": 34}
"""Layers that read the text."""
HEADS = {
    "sd": {8},
    "sdxl": {10, 20},
    "sd3": {24},
    "flux": {24},
    "video": {5, 10, 20},
    "animatediff": {8},
    "tokens": {12},
}


def takes_clips(recipe: Recipe) -> bool:
    """Return whether no technique of a recipe is defined on pictures alone."""
    return all(use.technique.takes_clips for use in recipe.uses)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_recipe_decides_about_every_family(system: str) -> None:
    recipe = load_recipe(system)
    refusals = set(recipe.not_on) | (set() if takes_clips(recipe) else CLIPS)
    assert {*recipe.backbones, *refusals} - {"mini"} == set(FAMILIES)
    assert not set(recipe.backbones) & refusals
    assert takes_clips(recipe) or not CLIPS & recipe.not_on.keys(), "its techniques say so already"


@pytest.mark.parametrize("family", FAMILIES)
def test_where_it_cannot_run_it_says_so_before_weights_are_read(
    family: str, config_folder: Callable[[str], Path]
) -> None:
    folder = config_folder(family)
    refused = [s for s in SYSTEMS if family not in load_recipe(s).backbones]
    assert refused
    for system in refused:
        with pytest.raises(CapabilityError, match=f"'{system}' (cannot run on|takes)") as said:
            fit(system, make_references(), folder)
        assert load_recipe(system).not_on.get(family, "defined on pictures") in str(said.value)
    runs = next(s for s in SYSTEMS if s not in refused)
    with pytest.raises(InputError):  # the folder holds no weights: only now they are missed
        fit(runs, make_references(), folder)


def test_the_command_refuses_too(
    config_folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, given = tmp_path / "out", ["--noun", "dog", "--token", "<thing>"]
    to = ["--backbone", str(config_folder("sd3")), "--out", str(out)]
    assert main(["fit", "custom-diffusion", str(tmp_path), *given, *to]) != 0
    assert "'custom-diffusion' cannot run" in capfd.readouterr().err
    assert main(["pretrain", "ip-adapter", "--data", str(tmp_path), *to]) != 0
    assert "'ip-adapter' cannot run" in capfd.readouterr().err
    assert not out.exists()


def test_a_resolved_recipe_is_refused_too(skeletons: Callable[[str], Backbone]) -> None:
    backbone = skeletons("sd3")
    recipe = load_recipe("ip-adapter", overrides=["sample.steps=2"])
    with pytest.raises(CapabilityError, match="cannot run"):
        pretrain(recipe, TwoRecords(), backbone)
    with pytest.raises(CapabilityError, match="cannot run"):
        fit(recipe, make_references(), backbone)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_the_releases(family: str, skeletons: Callable[[str], Backbone]) -> None:
    backbone = skeletons(family)
    assert backbone.card.family == family
    family = family.removesuffix("-kontext")  # of the same layout
    assert backbone.latent_shape[0] == CHANNELS[family]
    sites = [
        s for s in backbone.sites if s.kind == ("joint" if family in ("sd3", "flux") else "cross")
    ]
    assert len(sites) == SITES[family]
    assert {site.heads for site in sites} == HEADS[family]
    assert int(backbone.encode_ids(backbone._blank())[0].shape[-1]) == TEXT[family]
    if family in (
        "sd",
        "sdxl",
        "video",
        "animatediff",
    ):  # elsewhere the text is projected to the network's width first
        assert {site.context for site in sites} == {TEXT[family]}


def test_what_is_shortened_is_installed() -> None:
    assert set(catalogue().ids("techniques")) >= FEWER.keys()


def test_only_numbers_and_sizes_are_smaller() -> None:
    for system in SYSTEMS:
        recipe = load_recipe(system)
        techniques = {use.name: use.technique.id for use in recipe.uses}
        phases = {phase.name for phase in recipe.phases}
        for change in fewer_settings(recipe):
            name, _, key = change.partition("=")[0].rpartition(".")
            if name in techniques:
                assert key in FEWER[techniques[name]]
                fits_inside = techniques[name] == "defense.cast" and key == "surrogates"
                assert fits_inside or key in ("count", "size", "steps", "variants")
            else:
                assert name in ("sample", "fit") or name in phases
                assert key in ("steps", "batch", "accumulate", "cycles")
