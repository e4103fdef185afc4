"""MotionDirector: appearance cancels in the loss, frames move the spatial path, motion alone is drawn with."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Concept, Evaluation, FitStep, Subject, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "motiondirector"
MOTION = "video.motion_residual"
PROMPT = "a toy <motion> on the beach"
SETTINGS = [
    "motion.steps=3",
    "motion.lr=1e-2",
    "spatial.off=0.0",
    "video.noise_prior.steps=2",
    "sample.steps=2",
]


class StillError(Technique):
    """Ask the motion term about an error that is the same in every frame."""

    id = "check.still_error"

    @hookimpl
    def regularize(self, run: Any, step: FitStep) -> None:
        """Keep the term and the plain mean squared error of the motion phase's first step."""
        if step.phase != "motion" or SHARES:
            return
        still = torch.ones_like(step.target[:, :, :1]).expand_as(step.target)
        said = Evaluation(x0=step.noisy, output=step.target + still)
        asked = replace(step, forward=lambda: said)
        (term,) = (u.technique for u in run.recipe.uses if u.technique.id == MOTION)
        loss = term.regularize(run=run, step=asked)
        SHARES.append(loss.weight * float(loss.value.mean() / still.square().mean()))


SHARES: list[float] = []


def check(neutral: bool = False) -> CheckReport:
    """Fit a clip on the tiny video network; ``neutral`` switches the motion term and path off."""
    started = time.monotonic()
    backbone = open_backbone("tiny-video")
    before = snapshot(backbone)
    settings = [*SETTINGS, *([f"{MOTION}.weight=0.0", "temporal.alpha=0.0"] if neutral else [])]
    tuned, debiased = _fit(settings, backbone)
    _, plain = _fit([*settings, f"{MOTION}.beta=0.0"], backbone)
    drawn = sample(tuned, backbone, PROMPT)
    still, alone = (sample(_without(tuned, path), backbone, PROMPT) for path in PATHS)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("beta 1: the term of a still error", debiased, "<=", 0.1716),
            compare("beta 1: the term of a still error, from below", debiased, ">=", 0.1715),
            compare("beta 0: the term of a still error", plain, "==", 1.0),
            compare("spatial tensors moved by frames", _moved(tuned, "spatial"), ">", 0.0),
            compare("temporal tensors moved by clips", _moved(tuned, "temporal"), ">", 0.0),
            compare("drawn clips without the spatial path", _most(drawn - still), "==", 0.0),
            compare("drawn clips without the temporal path", _most(drawn - alone), ">", 1e-4),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: the motion term's weight and the temporal path's alpha 0",
    )


PATHS = ("spatial", "temporal")


def _fit(settings: list[str], backbone: Any) -> tuple[Any, float]:
    """Return the personalization, and the motion term's share of a still error (nan: never asked)."""
    SHARES.clear()
    clip = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    subject = Subject("motion", (Concept("motion", "<motion>", "running"),), (clip,), (None,))
    recipe = load(SYSTEM, overrides=settings)
    watched = replace(recipe, uses=(*recipe.uses, Use(StillError.id, StillError())))
    artifact = fit(watched, subject, backbone)[0]
    return replace(artifact, recipe=recipe), (SHARES or [float("nan")])[0]


def _without(artifact: Any, path: str) -> Any:
    """Return the personalization with the updates of one path zero."""
    tensors = {
        name: torch.zeros_like(value) if name.startswith(f"{path}/") else value
        for name, value in artifact.tensors.items()
    }
    return replace(artifact, tensors=tensors)


def _moved(artifact: Any, path: str) -> float:
    """Return the largest entry of a path's factors B, which start at zero."""
    factors = (
        t for n, t in artifact.tensors.items() if n.startswith(f"{path}/") and n.endswith("/B")
    )
    return max(float(t.abs().max()) for t in factors)


def _most(difference: torch.Tensor) -> float:
    return float(difference.abs().max())
