"""A recipe from references to a picture as it is written, with fewer steps and fewer, smaller pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from pcs_core import fit, load_recipe, pretrain, sample
from pcs_core.catalogue import catalogue
from pcs_core.data import Box, Concept, Layout, Record, Subject
from pcs_testing.fixtures import FACE_POINTS, make_picture

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe

FEWER: dict[str, dict[str, Any]] = {
    "data.augment": {"variants": 1},
    # fits of other recipes, of thousands of steps that no setting shortens: the one that has none
    "defense.cast": {"surrogates": ["style-aligned"], "count": 1},
    "inversion.ddim": {"steps": 2},
    "regularizers.prior_preservation": {"count": 1, "steps": 1},
    "three_d.renderable": {"size": 16},
    "video.noise_prior": {"steps": 2},
}
"""Settings of techniques that are a number of steps or pictures, or a picture's side in pixels."""
TOKEN, NOUN = "<thing>", "dog"


def fewer_settings(recipe: Recipe, *, steps: int = 1) -> list[str]:
    """Return overrides (``KEY=VALUE``) that change numbers of steps and pictures and sizes of pictures alone.

    The one exception are the recipes that ``defense.cast`` fits inside of a fit.

    Every phase trains for ``steps`` steps of one batch, once; a pre-training's batch has two records; one
    picture is drawn in two steps.
    """
    changes = [
        f"{use.name}.{key}={json.dumps(value)}"
        for use in recipe.uses
        for key, value in FEWER.get(use.technique.id, {}).items()
    ]
    changes += [f"{phase.name}.steps={steps}" for phase in recipe.phases]
    changes += [f"{phase.name}.accumulate=1" for phase in recipe.phases if phase.accumulate > 1]
    changes += [f"{phase.name}.batch=2" for phase in recipe.phases if phase.pretrain]
    return [*changes, "sample.steps=2", "fit.cycles=1"]


class TwoRecords:
    """Two records of one subject each, with a mask and a face's key points."""

    def __len__(self) -> int:
        """Return how many records there are."""
        return 2

    def __getitem__(self, index: int) -> Record:
        """Return a record."""
        picture = make_picture(index)
        mask = torch.zeros(1, 32, 32)
        mask[:, 8:24, 8:24] = 1.0
        extra = {"points": torch.tensor(FACE_POINTS)}
        return Record(picture, f"a photo of a {NOUN}", (NOUN,), ((picture,),), (mask,), extra)


def make_references(*, clips: bool = False, count: int = 2, side: int = 64) -> Subject:
    """Return a subject of ``count`` pictures [3 side side] with masks and key points, or of one clip."""
    concept = Concept(name="thing", token=TOKEN, noun=NOUN)
    if clips:
        frames = torch.stack([make_picture(i, (side, side)) for i in range(5)], dim=1)
        return Subject(
            name="thing", concepts=(concept,), images=(frames,), captions=(None,), files=("a",)
        )
    mask = torch.zeros(1, side, side)
    mask[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1.0
    return Subject(
        name="thing",
        concepts=(concept,),
        images=tuple(make_picture(i, (side, side)) for i in range(count)),
        captions=(None,) * count,
        files=tuple(f"{i}.png" for i in range(count)),
        masks={concept.name: (mask,) * count},
        extra=({"points": FACE_POINTS},) * count,
    )


def whole_run(
    recipe: Recipe, backbone: Backbone, subject: Subject
) -> tuple[Personalization, Tensor]:
    """Pre-train if the system does, fit, and draw; return the artifact and its picture [1 3 (t) h w]."""
    adapter = None
    if any(phase.pretrain for phase in recipe.phases):
        adapter = pretrain(recipe, TwoRecords(), backbone)
    artifact = fit(recipe, subject, backbone, seed=3, adapter=adapter)[0]
    layout = None
    if any(use.technique.reads_layout for use in recipe.uses):
        points = tuple((x, y) for x, y in FACE_POINTS)
        layout = Layout((Box(TOKEN, (0.0, 0.0, 0.5, 1.0)),), points)
    prompt = f"a photo of {TOKEN} on the beach"
    return artifact, sample(artifact, backbone, prompt, seed=1, layout=layout)


def systems_for(family: str) -> list[str]:
    """Return the systems whose recipes are for ``family``, sorted."""
    return [id for id in sorted(catalogue().recipe_files()) if family in load_recipe(id).backbones]
