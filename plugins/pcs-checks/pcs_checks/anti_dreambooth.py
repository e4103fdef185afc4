"""Anti-DreamBooth: a bounded change of the pictures on which the surrogate errs more than on the clean ones."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "anti-dreambooth"
EPS = 0.05
DELTA = "defense.perturbation/pixels/delta"
TIMES = (100, 300, 500, 700, 900)


def check(neutral: bool = False) -> CheckReport:
    """Protect two pictures with the tiny network; ``neutral`` sets the bound to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    recipe = load(
        SYSTEM,
        overrides=[
            "fit.cycles=2",
            "surrogate.steps=2",
            "adapt.steps=2",
            f"attack.steps={0 if neutral else 8}",
            "attack.batch=4",
            "attack.lr=0.5",
            "regularizers.prior_preservation.count=2",
            f"defense.perturbation.eps={0.0 if neutral else EPS}",
            "sample.steps=2",
        ],
    )
    subject = random_subject("thing")
    (artifact,) = fit(recipe, subject, backbone)
    height, width = backbone.card.size
    clean = torch.stack(
        [torch.nn.functional.interpolate(i[None], (height, width))[0] for i in subject.images]
    )
    delta = artifact.tensors.get(DELTA, torch.zeros_like(clean))
    protected = (clean + EPS / 2 * delta).clamp(0, 1)
    most = float((2 * protected - 2 * clean).abs().max())
    outside = float((protected.clamp(0, 1) - protected).abs().max())
    signs = torch.rand(clean.shape, generator=torch.Generator().manual_seed(9)).sub(0.5).sign()
    noisy = (clean + EPS / 2 * delta.abs() * signs).clamp(0, 1)
    plain, error, chance = (_error(artifact, backbone, x) for x in (clean, protected, noisy))
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest change, pixels in [-1, 1]", most, "<=", EPS + 1e-6),
            compare("how far pixels leave their range", outside, "==", 0.0),
            compare("surrogate's error on protected pictures", error, ">", plain),
            compare("the same, against a change of random signs", error, ">", chance),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: bound 0, so nothing can be changed",
    )


@torch.no_grad()
def _error(artifact: Any, backbone: Any, images: torch.Tensor) -> float:
    """Return the mean denoising error of the final surrogate over fixed times and noise."""
    from pcs_testing.inspect import opened

    total, rng = 0.0, torch.Generator().manual_seed(5)
    prompts = [f"a photo of {artifact.concepts[0].token}"] * len(images)
    process = backbone.process
    for at in TIMES:
        with opened(artifact, backbone, prompts, time=at) as (net, cond, level):
            latents = backbone.moments(images)[0]
            noise = torch.randn(latents.shape, generator=rng)
            output = net.evaluate(process.corrupt(latents, noise, level), level, cond).output
            total += float((output - process.target(latents, noise, level)).square().mean())
    return total / len(TIMES)
