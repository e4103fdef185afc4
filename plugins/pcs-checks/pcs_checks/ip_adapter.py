"""IP-Adapter: only projector, keys and values train; the image's attention adds in proportion."""

from __future__ import annotations

import time

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.records import RandomRecords
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, pretrain, sample
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import attention_outputs

SYSTEM = "ip-adapter"
USE = "attention.parallel_adapter"
PROMPT = "a photo of <first> on the beach"


# long: one experiment, and every row that it is judged by
def check(neutral: bool = False) -> CheckReport:
    """Pre-train briefly on the tiny network and fit two subjects; ``neutral`` sets the strength to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    strength = 0.0 if neutral else 1.0
    recipe = load(
        SYSTEM,
        overrides=[
            "encoders.image.model=tiny.image",
            f"{USE}.strength={strength}",
            "adapter.steps=3",
            "adapter.batch=2",
            "adapter.lr=1e-2",
            "sample.steps=3",
        ],
    )
    adapter = pretrain(recipe, RandomRecords(), backbone)
    subject = random_subject("first", "dog", seed=1)
    (artifact,) = fit(recipe, subject, backbone, adapter=adapter)
    (other,) = fit(recipe, random_subject("first", "dog", seed=2), backbone, adapter=adapter)
    sites = [s for s in backbone.sites if s.kind == "cross" and s.part == "denoiser"]
    expected = {f"{USE}/{s.name}/to_{p}/weight" for s in sites for p in ("k", "v")}
    trained = {n for n in adapter.tensors if "/to_" in n}
    beside = [n for n in adapter.tensors if not n.startswith((f"{USE}/image/", *expected))]
    none, half, full = (
        attention_outputs(artifact, backbone, PROMPT, strengths={"image.scale": s * strength})
        for s in (0.0, 0.5, 1.0)
    )
    base = attention_outputs(None, backbone, "a photo of dog on the beach")
    off = sample(artifact, backbone, PROMPT, strengths={"image.scale": 0.0})
    plain = sample(None, backbone, "a photo of dog on the beach", steps=3)
    on = sample(artifact, backbone, PROMPT)
    unlike = max(
        float((half[s] - none[s] - 0.5 * (full[s] - none[s])).abs().max()) for s in [sites[0].name]
    )
    added = max(float((full[s] - none[s]).abs().max()) for s in [sites[0].name])
    exact = sum(not torch.equal(none[s], base[s]) for s in none)
    same = float((off - plain).abs().max())
    steps = sum(p.steps for p in artifact.recipe.phases if not p.pretrain)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("keys and values of cross-attention without their own", len(expected ^ trained), "==", 0),
            compare("trained tensors beside projector, keys and values", len(beside), "==", 0),
            compare("attention outputs that strength 0 changes, by a bit", exact, "==", 0),
            compare("largest difference of strength 0 from the base picture", same, "==", 0.0),
            compare("largest |out(1/2) - out(0) - (out(1) - out(0)) / 2| at the first site", unlike, "<", 1e-5),
            compare("largest attention added to the first site", added, ">", 1e-3),
            compare("picture moved by the reference", float((on - off).abs().max()), ">", 1e-4),
            compare(
                "picture moved by another reference",
                float((on - sample(other, backbone, PROMPT)).abs().max()),
                ">",
                1e-5,
            ),
            compare("steps that fitting a subject took", steps, "==", 0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: strength 0",
    )  # fmt: skip
