"""StyleDrop: adapters that start as a no-op and alone train, and the algebra of its guidance."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Branch, Prediction, SampleStep, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "styledrop"
PROMPT = "a car in <ink> style"
ADAPTERS, GUIDANCE = "weights.bottleneck", "guidance.branches"
SIDES = {"tuned": Branch(), "base": Branch(model="base"), "null": Branch("negative", model="base")}


class Sides(Technique):
    """Keep the guided prediction of a step, and what each side predicts by itself."""

    id = "check.sides"

    @hookimpl(wrapper=True)
    def sample(self, step: SampleStep) -> Generator[None, Prediction, Prediction]:
        """Evaluate each side on the step's latents."""
        prediction = yield
        SEEN["guided"] = prediction.x0
        for name, side in SIDES.items():
            cond = step.branch(side)
            SEEN[name] = step.evaluate(step.latents, step.level, cond, model=side.model).x0
        return prediction


SEEN: dict[str, torch.Tensor] = {}


def check(neutral: bool = False) -> CheckReport:
    """Fit a picture on tiny networks of tokens and of noise; ``neutral`` sets the adapters to 0."""
    started = time.monotonic()
    rows: list[CheckRow] = []
    for name in ("tiny-tokens", "tiny"):
        rows += _rows(name, neutral)
    return CheckReport.of(
        SYSTEM,
        rows,
        seconds=time.monotonic() - started,
        backbone="tiny-tokens, tiny",
        note="neutral: strength of the adapters 0",
    )


def _rows(name: str, neutral: bool) -> list[CheckRow]:
    backbone = open_backbone(name)
    before = snapshot(backbone)
    strength = f"{ADAPTERS}.strength={0.0 if neutral else 1.0}"
    fresh = _fit(backbone, strength, "tune.steps=0")
    artifact = _fit(backbone, strength, "tune.steps=6")
    start = _look(fresh, backbone, 2.0, 5.0)
    both = _look(artifact, backbone, 2.0, 5.0)
    base = _look(artifact, backbone, -1.0, 0.0)
    tuned = _look(artifact, backbone, 0.0, 0.0)
    expected = (
        both["tuned"] + 2 * (both["tuned"] - both["base"]) + 5 * (both["base"] - both["null"])
    )
    moved = max(float(t.abs().max()) for n, t in artifact.tensors.items() if n.endswith("/up"))
    owners = {n.split("/")[0] for n in artifact.tensors}
    compare = CheckRow.compare
    return [
        compare(f"{name}: fresh, tuned against base", _apart(start, "tuned", "base"), "==", 0.0),
        compare(f"{name}: fitted, tuned against base", _apart(both, "tuned", "base"), ">", 1e-4),
        compare(
            f"{name}: weights -1 and 0, against base", _apart(base, "guided", "base"), "==", 0.0
        ),
        compare(
            f"{name}: weights 0 and 0, against tuned", _apart(tuned, "guided", "tuned"), "==", 0.0
        ),
        compare(
            f"{name}: weights 2 and 5, against the sum",
            float((both["guided"] - expected).abs().max() / expected.abs().max()),
            "<=",
            1e-4,
        ),
        compare(f"{name}: largest weight of an adapter's up projection", moved, ">", 0.0),
        compare(f"{name}: uses that own tensors beside them", len(owners - {ADAPTERS}), "==", 0),
        compare(f"{name}: backbone tensors that changed", changed(before, backbone), "==", 0),
    ]


def _fit(backbone: Any, *settings: str) -> Any:
    recipe = load(SYSTEM, overrides=["tune.lr=5e-2", "tune.batch={subject=2}", *settings])
    return fit(recipe, random_subject("ink", "ink drawing", count=1), backbone)[0]


def _look(artifact: Any, backbone: Any, tuned: float, text: float) -> dict[str, torch.Tensor]:
    """Return the guided prediction of one step under these weights, and that of each side."""
    uses = [Use(Sides.id, Sides())]
    for use in artifact.recipe.uses:
        technique = use.technique
        if use.name == GUIDANCE:
            technique = type(technique).from_settings({"tuned": tuned, "text": text})
        uses.append(replace(use, technique=technique))
    sample(
        replace(artifact, recipe=replace(artifact.recipe, uses=tuple(uses))),
        backbone,
        PROMPT,
        steps=1,
    )
    return dict(SEEN)


def _apart(seen: dict[str, torch.Tensor], first: str, second: str) -> float:
    return float((seen[first] - seen[second]).abs().max())
