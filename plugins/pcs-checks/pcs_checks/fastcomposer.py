"""FastComposer: features stand at the subjects' words only, and only after the plain first steps."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.records import RandomRecords
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, pretrain, sample
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import conditioning

if TYPE_CHECKING:
    from pcs_core.engine import SampleProgress

SYSTEM = "fastcomposer"
PROMPT = "a photo of <first> on the beach"
STEPS = 5
SUBJECT_AT = 4
"""Position of the noun: start token, "a", "photo", "of"."""


def check(neutral: bool = False) -> CheckReport:
    """Pre-train briefly on the tiny network and fit two subjects; ``neutral`` sets the strength to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    recipe = load(
        SYSTEM,
        overrides=[
            "encoders.image.model=tiny.image",
            "encoders.image.slots=2",
            "fusion.token_output.hidden=16",
            f"fusion.token_output.strength={0.0 if neutral else 1.0}",
            "compose.steps=3",
            "compose.batch=2",
            "compose.lr=1e-2",
            f"sample.steps={STEPS}",
        ],
    )
    adapter = pretrain(recipe, RandomRecords(subjects=2), backbone)
    artifacts = [
        fit(recipe, random_subject("first", "dog", seed=s), backbone, adapter=adapter)[0]
        for s in (1, 2)
    ]
    plain, fused = (
        conditioning(artifacts[0], backbone, PROMPT, progress=p).text for p in (0.0, 0.9)
    )
    moved = (fused - plain).abs().amax(-1)[0]
    elsewhere = torch.cat([moved[:SUBJECT_AT], moved[SUBJECT_AT + 1 :]])
    paths: list[list[torch.Tensor]] = []
    for artifact in artifacts:
        path: list[torch.Tensor] = []
        sample(artifact, backbone, PROMPT, watch=[partial(_remember, path)])
        paths.append(path)
    (merge,) = (
        u.technique.settings()["start"] for u in recipe.uses if u.name == "fusion.token_output"
    )
    first = next(i for i in range(STEPS) if i / STEPS >= merge)
    early = sum(
        not torch.equal(a, b) for a, b in zip(paths[0][:first], paths[1][:first], strict=True)
    )
    late = float((paths[0][-1] - paths[1][-1]).abs().max())
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("text moved at the subject's word", float(moved[SUBJECT_AT]), ">", 1e-4),
            compare("text moved anywhere else", float(elsewhere.max()), "==", 0.0),
            compare("plain steps before the subject's", first, ">", 0),
            compare("plain steps that differ between two references, by a bit", early, "==", 0),
            compare("last latents' difference between two references", late, ">", 1e-5),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: strength 0",
    )


def _remember(path: list[torch.Tensor], progress: SampleProgress) -> None:
    """Put the latents of a step behind those before it."""
    assert progress.latents is not None
    path.append(progress.latents)
