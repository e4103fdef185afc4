"""LoRA: a no-op at the start, rank at most r after training, exact when taken out."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, sample
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "lora-dreambooth"
RANK = 3
PROMPT = "a photo of <thing> on the beach"
DRAW: dict[str, Any] = {"steps": 2, "scale": 1.0}


def check(neutral: bool = False) -> CheckReport:
    """Fit a few steps on the tiny network; ``neutral`` sets alpha to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    subject = random_subject("thing")
    settings = [f"weights.lora.rank={RANK}", "tune.lr=1e-2"]
    if neutral:
        settings.append("weights.lora.alpha=0.0")
    fresh = fit(load(SYSTEM, overrides=[*settings, "tune.steps=0"]), subject, backbone)[0]
    artifact = fit(load(SYSTEM, overrides=[*settings, "tune.steps=6"]), subject, backbone)[0]
    plain = sample(None, backbone, PROMPT.replace("<thing>", "sks dog"), **DRAW)
    start = (sample(fresh, backbone, PROMPT, **DRAW) - plain).abs().max()
    tuned = sample(artifact, backbone, PROMPT, **DRAW)
    scale = 0.0 if neutral else 1.0
    deltas = {
        name.rsplit("/", 1)[0].split("/", 1)[1]: scale * b @ artifact.tensors[name[:-1] + "A"]
        for name, b in artifact.tensors.items()
        if name.endswith("/B")
    }
    ranks = [int(torch.linalg.matrix_rank(d.double(), rtol=1e-5)) for d in deltas.values()]
    merged = _merged_output(backbone, deltas)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("fresh adapters: largest change of a picture", float(start), "==", 0.0),
            compare("largest rank of W' - W", max(ranks), "<=", RANK),
            compare("smallest rank of W' - W", min(ranks), ">=", 1),
            compare(
                "attached against merged weights", float((tuned - merged).abs().max()), "<=", 1e-4
            ),
            compare("base tensors changed after unmerging", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: alpha 0, so W' = W",
    )


@torch.no_grad()
def _merged_output(backbone: Any, deltas: dict[str, torch.Tensor]) -> torch.Tensor:
    """Draw with W + delta in place of W, then put W back."""
    unet = backbone.parts["denoiser"]
    kept = {name: unet.get_submodule(name).weight.data for name in deltas}
    try:
        for name, delta in deltas.items():
            unet.get_submodule(name).weight.data = kept[name] + delta
        return sample(None, backbone, PROMPT.replace("<thing>", "sks dog"), **DRAW)
    finally:
        for name, weight in kept.items():
            unet.get_submodule(name).weight.data = weight
