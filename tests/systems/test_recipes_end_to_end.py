"""Every recipe, from a folder of pictures to pictures, on the tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core import (
    fit,
    load,
    load_recipe,
    load_subject,
    open_backbone,
    pretrain,
    sample,
    save,
)
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Box, Layout
from pcs_folders.pictures import write_png
from pcs_testing import brief_settings, tiny_backbone
from pcs_testing.fixtures import FACE_POINTS
from pcs_testing.whole_run import TwoRecords

SMALL = ("tiny", "tiny-video", "tiny-flux", "tiny-kontext")
SYSTEMS = sorted(catalogue().recipe_files())


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {name: open_backbone(name) for name in SMALL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects") / "thing"
    path.mkdir()
    rng = torch.Generator().manual_seed(0)
    for i in range(3):
        write_png(torch.rand(3, 40, 36 + 8 * i, generator=rng), path / f"{i}.png")
        inside = torch.zeros(3, 40, 36 + 8 * i)
        inside[:, 8:30, 8:30] = 1.0
        write_png(inside, path / f"{i}.mask.png")
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "thing"
    (path / "a").mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    for i in range(5):
        write_png(torch.rand(3, 40, 36, generator=rng), path / "a" / f"{i}.png")
    return path


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("system", "table"),
    [
        (system, table)
        for system in SYSTEMS
        for table in (None, "mini")
        if table is None or "sd" not in load_recipe(system).not_on
    ],
)
def test_end_to_end(
    system: str,
    table: str | None,
    folder: Path,
    clips: Path,
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    plain = load_recipe(system, backbone=table)
    moves = plain.backbones[:1] == ("video",)
    backbone = backbones[tiny_backbone(plain)]
    recipe = load_recipe(system, backbone=table, overrides=brief_settings(plain))
    subject = load_subject(clips if moves else folder, noun="dog", token="<thing>")
    before = {k: v.clone() for k, v in backbone.parts["denoiser"].state_dict().items()}

    learned = any(p.pretrain for p in recipe.phases)
    adapter = pretrain(recipe, TwoRecords(), backbone) if learned else None
    if adapter is not None:
        save(adapter, tmp_path / "adapter")
    artifact = fit(
        recipe, subject, backbone, seed=3, adapter=tmp_path / "adapter" if learned else None
    )[0]
    save(artifact, tmp_path / "artifact")
    again = load(tmp_path / "artifact")

    prompt = "a photo of <thing> on the beach"
    reads = any(u.technique.reads_layout for u in recipe.uses)
    points = tuple((x, y) for x, y in FACE_POINTS)
    layout = Layout((Box("<thing>", (0.0, 0.0, 0.5, 1.0)),), points) if reads else None
    first = sample(artifact, backbone, prompt, count=2, seed=1, layout=layout)
    second = sample(again, backbone, prompt, count=2, seed=1, layout=layout)
    assert first.shape == (2, 3, *((4,) if moves else ()), *backbone.card.size)
    assert torch.equal(first, second)
    untuned = sample(None, backbone, "a photo of dog on the beach", count=2, seed=1, steps=2)
    assert not torch.equal(first, untuned)
    after = backbone.parts["denoiser"].state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert again.recipe.document == artifact.recipe.document
