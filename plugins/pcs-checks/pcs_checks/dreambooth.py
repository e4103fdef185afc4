"""DreamBooth: all weights train, the class term is there, class images come from the original weights."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.data import FitStep, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "dreambooth"
COUNT = 3


def check(neutral: bool = False) -> CheckReport:
    """Fit two steps on the tiny network; ``neutral`` sets the prior weight to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    seen: dict[str, Any] = {}

    class Probe(Technique):
        """Looks at the losses of the first step and at the gradients they give."""

        id = "checks.probe"

        @hookimpl(wrapper=True, tryfirst=True)
        def regularize(self, run: Any, step: FitStep) -> Any:
            terms = yield
            if "loss" not in seen:
                seen.update(_first_step(run, step, terms, backbone))
            return terms

    recipe = load(
        SYSTEM,
        overrides=[
            "tune.steps=2",
            "tune.batch={subject=2, prior=2}",
            f"regularizers.prior_preservation.count={COUNT}",
            f"regularizers.prior_preservation.weight={0.0 if neutral else 1.0}",
            "sample.steps=3",
        ],
    )
    weight = next(u.technique for u in recipe.uses if "prior" in u.name).weight  # type: ignore[attr-defined]
    recipe = replace(recipe, uses=(*recipe.uses, Use("checks.probe", Probe())))
    vocabulary = len(backbone.tokenizer.inner)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, random_subject("thing"), backbone, work=Path(folder))
    expected = seen["instance"] + weight * seen["class"]
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare(
                "change of the tokenizer's vocabulary",
                len(backbone.tokenizer.inner) - vocabulary,  # type: ignore[attr-defined]
                "==",
                0,
            ),
            compare("share of UNet parameters with a gradient", seen["share"], "==", 1.0),
            compare(
                "|loss - (instance + weight * class)|", abs(seen["loss"] - expected), "<=", 1e-5
            ),
            compare("weight * class term", weight * seen["class"], ">", 0.0),
            compare("class images written before step 0", seen["cached"], "==", COUNT),
            compare("their difference to the original weights' own", seen["drift"], "<=", 1e-6),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: prior weight 0, so there is no class term",
    )


def _first_step(run: Any, step: FitStep, terms: Any, backbone: Any) -> dict[str, float]:
    from safetensors.torch import load_file

    error = step.error.mean(dim=(1, 2, 3)).detach()
    subject, prior = step.batch.rows("subject"), step.batch.rows("prior")
    losses = [
        term for result in terms for term in (result if isinstance(result, list) else [result])
    ]
    total = sum(
        term.weight * term.value[term.rows].mean() for term in losses if term.rows is not None
    )
    parameters = list(backbone.parts["denoiser"].parameters())
    grads = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    alive = [g is not None and bool(g.abs().max() > 0) for g in grads]
    files = sorted(run.work.rglob("*.safetensors"))
    cached = next((f for f in files if "class-images" in f.name), None)
    images = load_file(cached)["images"] if cached else torch.zeros(0)
    again = run.draw(["a dog"] * COUNT, seed=run.seed) if cached else images
    return {
        "instance": float(error[subject].mean()),
        "class": float(error[prior].mean()),
        "loss": float(total.detach()),
        "share": sum(alive) / len(alive),
        "cached": float(len(images)),
        "drift": float((images - again).abs().max()) if cached else float("nan"),
    }
