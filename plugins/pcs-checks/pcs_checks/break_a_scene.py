"""Break-A-Scene: a step's words and masks are of one set, words train first, maps pull at the words."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.data import LOSS, Concept, FitStep, Run, Subject, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "break-a-scene"
TOKENS = ("<left>", "<right>")
STEPS = 24


class Witness(Technique):
    """Looks at each step: which words and masks it holds, and where its losses' gradients end."""

    id = "checks.witness"

    @hookimpl(wrapper=True)
    def regularize(self, run: Run, step: FitStep) -> Any:
        """Look, and change nothing."""
        results = yield
        SEEN.append(_look(step))
        for loss in results:
            if not isinstance(loss, list) and loss.name == "localization":
                maps = [m for m in step.tape.values() if m.requires_grad]
                pulls = torch.autograd.grad(
                    loss.value.sum() * loss.weight, maps, retain_graph=True, allow_unused=True
                )
                PULLS.append(sum(float(p.abs().sum()) for p in pulls if p is not None))
        return results


SEEN: list[list[tuple[set[int], set[int], float]]] = []
PULLS: list[float] = []


def check(neutral: bool = False) -> CheckReport:
    """Fit two masked halves of a random picture on the tiny network; ``neutral`` sets lambda_attn to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = [
        "regularizers.prior_preservation.count=1",
        "regularizers.prior_preservation.steps=1",
        "sample.steps=2",
        f"attention.localization_loss.weight={0.0 if neutral else 0.01}",
    ]
    first = _fit(backbone, [*settings, f"handles.steps={STEPS}", "scene.steps=0"])
    seen, pulls = list(SEEN), list(PULLS)
    second = _fit(backbone, [*settings, "handles.steps=1", "scene.steps=1", "scene.lr=1e-3"])
    rows = [row for step in seen for row in step]
    apart = sum(words != masks for words, masks, _ in rows)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("rows whose words and masks are of different sets", apart, "==", 0),
            compare("largest distance of the loss mask to the set's union", _far(rows), "<", 1e-6),
            compare(
                "sets of concepts that were shown", len({frozenset(r[0]) for r in rows}), "==", 3
            ),
            compare("phase 1: network tensors that moved", _moved(first), "==", 0),
            compare("phase 2: network tensors that moved", _moved(second), ">", 0),
            compare("gradient at the attention maps", sum(pulls), ">", 0.0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: lambda_attn 0",
    )


def _fit(backbone: Any, settings: list[str]) -> Any:
    from dataclasses import replace

    SEEN.clear()
    PULLS.clear()
    recipe = load(SYSTEM, backbone=backbone.card.id, overrides=settings)
    recipe = replace(recipe, uses=(Use("witness", Witness()), *recipe.uses))
    return fit(recipe, scene(), backbone)[0]


def scene() -> Subject:
    """Return one random picture of two concepts, the left and the right half."""
    rng = torch.Generator().manual_seed(0)
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    return Subject(
        name="scene",
        concepts=(Concept("left", TOKENS[0], "dog"), Concept("right", TOKENS[1], "cat")),
        images=(torch.rand(3, 32, 32, generator=rng),),
        captions=(None,),
        masks={"left": (left,), "right": (left.flip(-1),)},
    )


def _look(step: FitStep) -> list[tuple[set[int], set[int], float]]:
    """Return for each row of the subject: its words, its masks, and how far the loss mask is off."""
    rows, loss = [], step.masks.get(LOSS)
    for row, (role, caption) in enumerate(zip(step.batch.roles, step.batch.captions, strict=True)):
        if role == "subject":
            regions = [step.batch.regions[f"mask.concept.{k}"][row] for k in range(2)]
            union = torch.stack(regions).amax(0)
            off = 1.0 if loss is None else float((loss[row] - union).abs().max())
            words = {k for k, token in enumerate(TOKENS) if token in caption}
            rows.append((words, {k for k, r in enumerate(regions) if r.any()}, off))
    return rows


def _far(rows: Any) -> float:
    return max(off for _, _, off in rows)


def _moved(artifact: Any) -> int:
    """Return how many tensors of the networks differ from the base."""
    deltas = [t for name, t in artifact.tensors.items() if name.startswith("weights.full/")]
    return sum(bool(delta.any()) for delta in deltas)
