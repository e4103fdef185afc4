"""InstantID: the control branch reads the face and drawn points, never the prompt, and starts at nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.records import RandomRecords
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, load_recipe, open_backbone, pretrain, sample
from pcs_core.data import BranchEdit, Layout
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import control_residuals
from pcs_testing.inspect import opened

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

SYSTEM = "instantid"
PROMPT = "a photo of <first> on the beach"
RECORDS = RandomRecords(points=True)
POINTS = Layout(points=((0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7)))


# long: one experiment, and every row that it is judged by
def check(neutral: bool = False) -> CheckReport:
    """Pre-train briefly on the tiny network and fit two faces; ``neutral`` sets both strengths to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    strength = 0.0 if neutral else 0.8
    recipe = load(
        SYSTEM,
        overrides=[
            "encoders.face.model=tiny.face",
            "attention.parallel_adapter.heads=4",
            "attention.parallel_adapter.depth=1",
            "attention.parallel_adapter.inner=16",
            "attention.parallel_adapter.head_width=4",
            "fusion.control_branch.radius=0.05",
            "fusion.control_branch.stick=0.03",
            f"attention.parallel_adapter.strength={strength}",
            f"fusion.control_branch.strength={strength}",
            "fusion.control_branch.width=0.5",
            "identity.steps=3",
            "identity.batch=2",
            "identity.lr=1e-2",
            "sample.steps=3",
        ],
    )
    adapter = pretrain(recipe, RECORDS, backbone)
    artifacts = [
        fit(recipe, random_subject("first", "dog", seed=s), backbone, adapter=adapter)[0]
        for s in (1, 2)
    ]
    one, reworded, other, elsewhere = (
        control_residuals(artifact, backbone, prompt, layout=layout)
        for artifact, prompt, layout in (
            (artifacts[0], PROMPT, POINTS),
            (artifacts[0], "a drawing of <first> in the snow", POINTS),
            (artifacts[1], PROMPT, POINTS),
            (artifacts[0], PROMPT, Layout(points=POINTS.points[::-1])),
        )
    )
    words = sum(not torch.equal(a, b) for a, b in zip(one, reworded, strict=True))
    face = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    pose = max(float((a - b).abs().max()) for a, b in zip(one, elsewhere, strict=True))
    untrained = pretrain(load_recipe(recipe, overrides=["identity.steps=0"]), RECORDS, backbone)
    fresh = fit(recipe, random_subject("first", "dog", seed=1), backbone, adapter=untrained)[0]
    start = max(
        float(r.abs().max()) for r in control_residuals(fresh, backbone, PROMPT, layout=POINTS)
    )
    limbs = lit_between(drawn(artifacts[0], backbone))
    length = float(artifacts[0].features["face"].norm())
    off = sample(
        artifacts[0],
        backbone,
        PROMPT,
        layout=POINTS,
        strengths={"face.scale": 0.0, "control.scale": 0.0},
    )
    plain = sample(None, backbone, "a photo of dog on the beach", steps=3, scale=5.0)
    on = sample(artifacts[0], backbone, PROMPT, layout=POINTS)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest residual of the branch before it is trained", start, "==", 0.0),
            compare("limbs that are drawn between points", limbs, "==", 4),
            # no mean of vectors of unit length is longer than 1
            compare("length of the face's vector, as the recogniser gives it", length, ">", 1.5),
            compare("residuals that another prompt changes, by a bit", words, "==", 0),
            compare("residuals moved by another face", face, ">", 1e-6),
            compare("residuals moved by other key points", pose, ">", 1e-6),
            compare("both strengths 0 against the base picture", float((off - plain).abs().max()), "<", 1e-6),
            compare("picture moved by face and points", float((on - off).abs().max()), ">", 1e-4),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: both strengths 0",
    )  # fmt: skip


def drawn(artifact: Personalization, backbone: Backbone) -> Tensor:
    """Return the picture [3 h w] that the branch's network is given for :data:`POINTS`."""
    seen: list[Any] = []
    with opened(artifact, backbone, [PROMPT], layout=POINTS) as (net, cond, level):
        (edit,) = net.fusion.of(BranchEdit)
        network: Any = edit.network
        network.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
        edit.residuals(torch.zeros(1, *backbone.latent_shape), level.time, cond)
    picture: Tensor = seen[0][0]
    return picture


def lit_between(picture: Tensor) -> int:
    """Return how many of the four middles between a point and the nose are lit in a picture [3 h w]."""
    nose = POINTS.points[2]
    lit = 0
    for index in (0, 1, 3, 4):
        x, y = ((a + b) / 2 for a, b in zip(POINTS.points[index], nose, strict=True))
        row, column = int(y * picture.shape[1]), int(x * picture.shape[2])
        lit += bool(picture[:, row, column].amax() > 0)
    return lit
