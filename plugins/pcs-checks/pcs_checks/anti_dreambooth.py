"""Anti-DreamBooth: many small steps against a surrogate raise its error further than one large one."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, fit_image, open_backbone
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "anti-dreambooth"
EPS = 0.05
DELTA = "defense.perturbation/pixels/delta"
TIMES = (100, 300, 500, 700, 900)
DRAWS = 4
"""Noises at each of the times: the same for all pictures that are compared."""
MARGIN = 1.2
"""What many small steps gain of the surrogate's error, as a multiple of one step of the whole bound."""


def check(neutral: bool = False) -> CheckReport:
    """Protect two pictures with the tiny network; ``neutral`` sets the bound to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    subject = random_subject("thing")
    clean = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
    # a network that never saw the pictures errs on all alike: the copy that is attacked has learned them
    surrogate = _protected(subject, backbone, steps=0, neutral=neutral)
    many, once = (
        _protected(subject, backbone, steps=n, rate=r, neutral=neutral).tensors.get(DELTA)
        for n, r in ((40, 0.1), (1, 1.0))
    )
    none = torch.zeros_like(clean)
    many, once = (none if d is None else d for d in (many, once))
    signs = torch.rand(clean.shape, generator=torch.Generator().manual_seed(9)).sub(0.5).sign()
    protected, single, noisy = (
        (clean + EPS / 2 * d).clamp(0, 1) for d in (many, once, many.abs() * signs)
    )
    most = float((2 * protected - 2 * clean).abs().max())
    plain, *errors = (_error(surrogate, backbone, x) for x in (clean, protected, single, noisy))
    gain, one, chance = (error - plain for error in errors)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest change, pixels in [-1, 1]", most, "<=", EPS + 1e-6),
            compare("largest change, from below", most, ">=", 0.9 * EPS),
            compare("gain of the surrogate's error by one step of the bound", one, ">", 0.0),
            compare("gain by many, as a multiple of it", gain / (one or 1.0), ">=", MARGIN),
            compare("gain by random signs, as a share", chance / (gain or 1.0), "<=", 0.2),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: bound 0, so nothing can be changed",
    )


def _protected(subject: Any, backbone: Any, *, steps: int, rate: float = 0.1, neutral: bool) -> Any:
    """Return a round of the alternation with so many sign steps; without any the copy it would attack."""
    recipe = load(
        SYSTEM,
        overrides=[
            "fit.cycles=1",
            "surrogate.steps=40",
            "surrogate.lr=2e-3",
            "surrogate.batch={clean=4, prior=1}",
            f"adapt.steps={1 if steps else 0}",
            f"attack.steps={0 if neutral else steps}",
            f"attack.lr={rate}",
            "regularizers.prior_preservation.count=1",
            "regularizers.prior_preservation.steps=1",
            f"defense.perturbation.eps={0.0 if neutral else EPS}",
            "sample.steps=2",
        ],
    )
    return fit(recipe, subject, backbone)[0]


@torch.no_grad()
def _error(artifact: Any, backbone: Any, images: torch.Tensor) -> float:
    """Return the mean denoising error of the final surrogate over fixed times and noises."""
    from pcs_testing.inspect import opened

    total, rng = 0.0, torch.Generator().manual_seed(5)
    prompts = [f"a photo of {artifact.concepts[0].token}"] * len(images)
    process = backbone.process
    for at in TIMES:
        with opened(artifact, backbone, prompts, time=at) as (net, cond, level):
            latents = backbone.moments(images)[0]
            for _ in range(DRAWS):
                noise = torch.randn(latents.shape, generator=rng)
                output = net.evaluate(process.corrupt(latents, noise, level), level, cond).output
                total += float((output - process.target(latents, noise, level)).square().mean())
    return total / (len(TIMES) * DRAWS)
