"""FastComposer: what stands at a subject's word, when, and where maps are held, by the released formulas."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_checks.changes import changed, snapshot
from pcs_checks.records import RandomRecords
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone, pretrain, sample
from pcs_core.data import FitStep, Recipe, Use
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import conditioning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.data import Conditioning
    from pcs_engine import SampleProgress

SYSTEM = "fastcomposer"
PROMPT = "a photo of <first> on the beach"
STEPS = 5
HELD = ("down_blocks.1.", "down_blocks.2.", "mid_block.", "up_blocks.1.", "up_blocks.2.")
"""The five middle ones of a UNet's seven groups of blocks, as the released code counts them."""
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
            f"fusion.token_output.strength={0.0 if neutral else 1.0}",
            "compose.steps=3",
            "compose.batch=2",
            "compose.lr=1e-2",
            f"sample.steps={STEPS}",
        ],
    )
    adapter = pretrain(recipe, RandomRecords(subjects=2), backbone)
    want, loss = localization(recipe, backbone)
    artifacts = [
        fit(recipe, random_subject("first", "dog", seed=s), backbone, adapter=adapter)[0]
        for s in (1, 2)
    ]
    conds = [conditioning(artifacts[0], backbone, PROMPT, progress=p) for p in (0.0, 0.9)]
    plain, fused = (cond.text for cond in conds)
    formula = postfused(plain[0, SUBJECT_AT], conds[1], adapter.tensors)
    away = float((fused[0, SUBJECT_AT] - formula).abs().max())
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
            compare("text at the subject's word against the released formula", away, "<", 1e-5),
            compare("localisation loss against the released formula", abs(loss - want), "<", 1e-6),
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


def postfused(text: Tensor, cond: Conditioning, stored: Mapping[str, Tensor]) -> Tensor:
    """Return LayerNorm(y + MLP2(y)), y = text + MLP1([text; feature]), of text [d]; NaN without the tensors."""
    start = "fusion.token_output/<image.feature>/"
    weights = {
        name.removeprefix(start): value for name, value in stored.items() if name.startswith(start)
    }
    feature = cond.streams.get("image.trained")
    if "read/0/weight" not in weights or feature is None:
        return torch.full_like(text, torch.nan)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape, weights[f"{name}/weight"], weights[f"{name}/bias"])

    def mlp(x: Tensor, name: str) -> Tensor:
        inner = F.linear(
            norm(x, f"{name}/0"), weights[f"{name}/1/weight"], weights[f"{name}/1/bias"]
        )
        return F.linear(F.gelu(inner), weights[f"{name}/3/weight"], weights[f"{name}/3/bias"])

    joined = text + mlp(torch.cat([text, feature[0, 0]]), "read")
    return norm(joined + mlp(joined, "refine"), "after")


_STEPS: list[tuple[FitStep, float]] = []
"""Steps that the capture saw, with the localisation loss that was given: a technique is frozen."""


class Capture(Technique):
    """Keeps each step and its localisation loss, and changes nothing."""

    id = "checks.localization"

    @hookimpl(wrapper=True, tryfirst=True)
    def regularize(self, run: Any, step: FitStep) -> Any:
        """Pass the losses on."""
        answers = yield
        terms = [t for a in answers for t in (a if isinstance(a, list | tuple) else [a])]
        values = [float(t.value.detach().mean()) for t in terms if t.name == "localization"]
        _ = step.output  # its maps are on the tape from here on
        _STEPS.append((step, values[0] if values else float("nan")))
        return answers


def localization(recipe: Recipe, backbone: Any) -> tuple[float, float]:
    """Return the localisation loss of one step of a pre-training: by the released formula, and as given."""
    _STEPS.clear()
    watched = replace(recipe, uses=(*recipe.uses, Use(Capture.id, Capture())))
    watched = replace(watched, phases=tuple(replace(p, steps=1) for p in watched.phases))
    pretrain(watched, RandomRecords(subjects=2), backbone)
    step, given = _STEPS[0]
    layers = [n for n in step.tape if n.startswith(HELD)]
    values = [contrast_of(step, step.tape[name].detach()) for name in layers]
    return (sum(values) / len(values) if values else float("nan")), given


def contrast_of(step: FitStep, probs: Tensor) -> float:
    """Return a layer's loss: mean outside less mean inside, averaged over heads, a row's subjects, and rows."""
    rows, heads, places, _ = probs.shape
    side = round(places**0.5)
    total = 0.0
    for row in range(rows):
        contrasts = []
        for slot in range(2):
            at = step.cond.spans[f"concept.{slot}"][row]
            if int(at.max()) < 0:
                continue
            region = step.batch.regions[f"mask.concept.{slot}"][row : row + 1].float()
            inside = F.interpolate(region, (side, side), mode="bilinear", antialias=True).flatten()
            maps = probs[row, :, :, int(at.max())].float()
            out = (maps * (1 - inside)).sum(1) / ((1 - inside).sum() + 1e-5)
            contrasts.append((out - (maps * inside).sum(1) / (inside.sum() + 1e-5)).sum() / heads)
        total += float(sum(contrasts)) / max(len(contrasts), 1)
    return total / rows
