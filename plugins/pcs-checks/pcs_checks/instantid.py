"""InstantID: the control branch reads the face and its points, never the prompt."""

from __future__ import annotations

import time

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.records import RandomRecords
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, pretrain, sample
from pcs_core.data import Layout
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import control_residuals

SYSTEM = "instantid"
PROMPT = "a photo of <first> on the beach"
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
            f"attention.parallel_adapter.strength={strength}",
            f"fusion.control_branch.strength={strength}",
            "fusion.control_branch.width=0.5",
            "identity.steps=3",
            "identity.batch=2",
            "identity.lr=1e-2",
            "sample.steps=3",
        ],
    )
    adapter = pretrain(recipe, RandomRecords(points=True), backbone)
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
