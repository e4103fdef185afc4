"""P+: every cross-attention layer reads the encoding of an embedding of its own."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import select_sites
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "p-plus"
PROMPT = "a photo of <thing> on the beach"


def check(neutral: bool = False) -> CheckReport:
    """Fit a few steps on the tiny network; ``neutral`` shares one embedding between the layers."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = [f"tokens.layerwise.shared={str(neutral).lower()}", "token.steps=4", "token.batch=2"]
    recipe = load(SYSTEM, overrides=[*settings, "token.lr=0.05"])
    artifact = fit(recipe, random_subject("thing"), backbone)[0]
    ((name, rows),) = artifact.tensors.items()
    names = [s.name for s in select_sites(backbone.sites, "cross")]
    distinct = len({tuple(row.flatten().tolist()) for row in rows[0]})
    read = _contexts(artifact, backbone, names)
    strays, still = 0, 0
    for i in range(len(names)):
        moved = rows.clone()
        moved[:, min(i, moved.shape[1] - 1)] += 0.5
        artifact.tensors[name] = moved  # type: ignore[index]
        now = _contexts(artifact, backbone, names)
        still += torch.equal(now[names[i]], read[names[i]])
        strays += sum(not torch.equal(now[n], read[n]) for n in names if n != names[i])
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("distinct embeddings", distinct, "==", len(names)),
            compare("layers that do not follow their own embedding", still, "==", 0),
            compare("layers that follow another's embedding", strays, "==", 0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: one embedding shared by all layers",
    )


def _contexts(artifact: Any, backbone: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """Return what the key projection of each cross-attention site got in one sampling step."""
    seen: dict[str, torch.Tensor] = {}
    unet = backbone.parts["denoiser"]
    hooks = [
        unet.get_submodule(f"{n}.to_k").register_forward_pre_hook(
            lambda _, args, n=n: seen.__setitem__(n, args[0].clone())
        )
        for n in names
    ]
    try:
        sample(artifact, backbone, PROMPT, steps=1, scale=1.0)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
