"""Image tokens and strengths are inputs: one deployment serves every reference of an IP-Adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core import fit, load_recipe, open_backbone, pretrain, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Recipe, Record
from pcs_core.engine import export
from pcs_core.errors import CapabilityError

TOLERANCE = 1e-5
SETTINGS = ["encoders.image.model=tiny.image", "adapter.steps=2", "adapter.batch=2"]


class Records:
    """Random pictures with captions."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        rng = torch.Generator().manual_seed(10 * self.seed + index)
        picture, reference = torch.rand(2, 3, 32, 32, generator=rng)
        return Record(
            image=picture,
            caption="a photo of a dog",
            phrases=("dog",),
            references=((reference,),),
            masks=(torch.ones(1, 32, 32),),
        )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("ip-adapter", overrides=[*SETTINGS, "adapter.lr=1e-2"])


@pytest.fixture(scope="module")
def adapter(recipe: Recipe, backbone: Backbone) -> Personalization:
    return pretrain(recipe, Records(), backbone)


@pytest.fixture(scope="module")
def folder(
    recipe: Recipe,
    adapter: Personalization,
    backbone: Backbone,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Of the system, without any subject."""
    out = tmp_path_factory.mktemp("onnx") / "deployment"
    facts = export(recipe, out, to="onnx", backbone=backbone, adapter=adapter)
    denoiser = facts["graphs"]["denoiser"]
    names = [entry["name"] for entry in denoiser["inputs"]]
    assert names == ["latents", "time", "text", "stream/image", "strength/image.scale"]
    assert denoiser["neutral"]
    assert any(name.endswith("to_k/weight") for name in denoiser["baked"])
    return out


def test_two_subjects_at_two_strengths(
    recipe: Recipe, adapter: Personalization, backbone: Backbone, folder: Path,
    subject, trajectory, apart,
) -> None:  # fmt: skip
    deployed = open_backbone(folder)
    persons = [fit(recipe, subject(s), backbone, adapter=adapter)[0] for s in (1, 2)]
    drawn = []
    for person in persons:
        for strength in (0.5, 1.0):
            options = {"strengths": {"image.scale": strength}}
            drawn.append(trajectory(person, deployed, **options))
            assert apart(drawn[-1], trajectory(person, backbone, **options)) <= TOLERANCE
    for other in drawn[1:]:  # alive: every strength and every reference draws another picture
        assert apart(drawn[0], other) > 3 * TOLERANCE


def test_another_adapter_is_refused(
    recipe: Recipe, backbone: Backbone, folder: Path, subject
) -> None:
    other = pretrain(recipe, Records(7), backbone)
    (person,) = fit(recipe, subject(1), backbone, adapter=other)
    with pytest.raises(CapabilityError, match="other pre-trained weights"):
        sample(person, open_backbone(folder), "a photo of <one>", steps=1)
