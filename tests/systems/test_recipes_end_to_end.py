"""Every recipe, from a folder of pictures to pictures, on the tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core import fit, load, load_recipe, load_subject, open_backbone, sample, save
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.storage.pictures import write_png

SYSTEMS = sorted(catalogue().recipe_files())
FEW = {
    "regularizers.prior_preservation": "count=2",
    "video.noise_prior": "steps=2",
    "data.augment": "variants=1",
    "three_d.canvas": "size=16",
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {name: open_backbone(name) for name in ("tiny", "tiny-video")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects") / "thing"
    path.mkdir()
    rng = torch.Generator().manual_seed(0)
    for i in range(3):
        write_png(torch.rand(3, 40, 36 + 8 * i, generator=rng), path / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "thing"
    (path / "a").mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    for i in range(5):
        write_png(torch.rand(3, 40, 36, generator=rng), path / "a" / f"{i}.png")
    return path


@pytest.mark.parametrize("table", [None, "mini"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_end_to_end(
    system: str,
    table: str | None,
    folder: Path,
    clips: Path,
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    plain = load_recipe(system, backbone=table)
    moves = plain.backbones == ("video",)
    backbone = backbones["tiny-video" if moves else "tiny"]
    few = [f"{u.name}.{FEW[u.name]}" for u in plain.uses if u.name in FEW]
    few += [f"{p.name}.steps=3" for p in plain.phases] + ["sample.steps=2", "fit.cycles=1"]
    recipe = load_recipe(system, backbone=table, overrides=few)
    subject = load_subject(clips if moves else folder, noun="dog", token="<thing>")
    before = {k: v.clone() for k, v in backbone.parts["denoiser"].state_dict().items()}

    person = fit(recipe, subject, backbone, seed=3)[0]
    save(person, tmp_path / "artifact")
    again = load(tmp_path / "artifact")

    prompt = "a photo of <thing> on the beach"
    first = sample(person, backbone, prompt, count=2, seed=1)
    second = sample(again, backbone, prompt, count=2, seed=1)
    assert first.shape == (2, 3, *((4,) if moves else ()), *backbone.card.size)
    assert torch.equal(first, second)
    untuned = sample(None, backbone, "a photo of dog on the beach", count=2, seed=1, steps=2)
    assert not torch.equal(first, untuned)
    after = backbone.parts["denoiser"].state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert again.recipe.document == person.recipe.document
