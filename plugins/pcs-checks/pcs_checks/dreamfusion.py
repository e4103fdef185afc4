"""DreamFusion: the field's gradient is w(t) (eps_hat - eps) dx/dtheta, by hand, and the denoiser has none."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.data import Concept, Evaluation, FitStep, Loss, Subject, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "dreamfusion"
FIELD = "field"
LOSS = "three_d.score_distillation"


def check(neutral: bool = False) -> CheckReport:
    """Render one step on the tiny network; ``neutral`` sets the distillation's weight to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    seen: dict[str, float] = {}

    class Probe(Technique):
        """Compares the gradient of the step's loss with the one written down by hand."""

        id = "checks.probe"

        @hookimpl(wrapper=True, tryfirst=True)
        def regularize(self, run: Any, step: FitStep) -> Any:
            weights = list(run.backbone.parts["denoiser"].parameters())
            flags = [w.requires_grad for w in weights]
            for weight in weights:  # a loss that ran through the denoiser would show it
                weight.requires_grad_(True)
            terms = yield
            if not seen:
                seen.update(_first_step(run, step, terms, technique, weights))
            for weight, flag in zip(weights, flags, strict=True):
                weight.requires_grad_(flag)
            return terms

    recipe = load(
        SYSTEM,
        overrides=[
            "render.steps=2",
            "render.batch={rendered=2}",
            "three_d.renderable.size=16",
            "three_d.renderable.cells=8",
            "three_d.renderable.samples=12",
            f"three_d.score_distillation.weight={0.0 if neutral else 1.0}",
            "sample.steps=2",
        ],
    )
    technique: Any = next(u.technique for u in recipe.uses if u.name == LOSS)
    recipe = replace(recipe, uses=(*recipe.uses, Use("checks.probe", Probe())))
    subject = Subject("thing", concepts=(Concept("dog", "<thing>", "dog"),))
    (artifact,) = fit(recipe, subject, backbone)
    stored = [n for n in artifact.tensors if n.startswith("three_d.renderable/")]
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest gradient of the field", seen["largest"], ">", 0.0),
            compare("its difference to the one by hand, against it", seen["miss"], "<=", 1e-3),
            compare("parameters of the denoiser that get a gradient", seen["denoiser"], "==", 0),
            compare("gradient where eps_hat is eps", seen["agreeing"], "==", 0.0),
            compare("scales 0, 1, 3: (g3 - g1) against 2 (g1 - g0)", seen["nonlinear"], "<=", 1e-3),
            compare("tensors of the field in the artifact", len(stored), "==", 3),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: weight of the distillation 0",
    )


def _first_step(
    run: Any, step: FitStep, terms: Any, technique: Any, weights: Any
) -> dict[str, float]:
    field = run.heads[FIELD]
    parameters = list(field.parameters())
    losses: list[Loss] = [t for r in terms for t in (r if isinstance(r, list) else [r])]
    term = next((t for t in losses if t.name == LOSS), None)
    if term is None:
        return dict.fromkeys(("largest", "miss", "denoiser", "agreeing", "nonlinear"), 0.0)
    given = torch.autograd.grad(term.value.sum(), parameters, retain_graph=True)
    upstream = _by_hand(step, technique.scale)
    hand = torch.autograd.grad(step.batch.latents, parameters, upstream, retain_graph=True)
    largest = max(float(g.abs().max()) for g in hand)
    miss = max(float((a - b).abs().max()) for a, b in zip(given, hand, strict=True))
    through = torch.autograd.grad(term.value.sum(), weights, retain_graph=True, allow_unused=True)
    clean = step.batch.latents.detach()
    agreeing = replace(step, evaluate=lambda *_, **__: Evaluation(clean, clean))
    scaled = [replace(technique, scale=s).gradient(step) for s in (0.0, 1.0, 3.0)]
    bend = (scaled[2] - scaled[1]) - 2 * (scaled[1] - scaled[0])
    return {
        "largest": largest,
        "miss": miss / max(largest, 1e-12),
        "denoiser": float(sum(g is not None for g in through)),
        "agreeing": float(technique.gradient(agreeing).abs().max()),
        "nonlinear": float(bend.abs().max() / scaled[2].abs().max()),
    }


@torch.no_grad()
def _by_hand(step: FitStep, scale: float) -> torch.Tensor:
    """Return sigma^2 (eps_hat - eps) [b c h w], from the noises as the paper writes them."""
    alpha, sigma = step.level.like(step.noisy)
    noisy = step.noisy.detach()
    conditional, unconditional = (
        (noisy - alpha * step.evaluate(noisy, step.level, cond).x0) / sigma
        for cond in (step.cond, step.encode(""))
    )
    return sigma.square() * (unconditional + scale * (conditional - unconditional) - step.noise)
