"""StyleAligned: pictures read the reference, the reference reads none, and nothing trains."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion, Subject
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "style-aligned"
PROMPTS = ("a drawing of a cat", "a drawing of a car")


def check(neutral: bool = False) -> CheckReport:
    """Look at two rows of the tiny network, the first the reference; ``neutral`` shares nothing."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = ["attention.shared.share=[]"] if neutral else []
    recipe = load(SYSTEM, overrides=[*settings, "sample.steps=2"])
    (artifact,) = fit(recipe, Subject("style", concepts=()), backbone)
    fusion = _fusion(recipe, backbone)
    latents = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(3))
    alone = _look(backbone, Fusion(), latents[:1])
    both = _look(backbone, fusion, latents)
    first, second = latents.clone(), latents.clone()
    first[0] += 0.5
    second[1] += 0.5
    from_reference = (_look(backbone, fusion, first)[1] - both[1]).abs().max()
    to_reference = (_look(backbone, fusion, second)[0] - both[0]).abs().max()
    drawn = sample(artifact, backbone, PROMPTS[1], count=2)
    plain = sample(None, backbone, PROMPTS[1], count=2, steps=2, scale=recipe.sample.scale)
    owned = [p for e in fusion.edits for p in e.parameters()]
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("the reference, against itself alone", _most(both[:1] - alone), "<=", 1e-5),
            compare("a picture, when the reference moves", float(from_reference), ">", 1e-3),
            compare("the reference, when a picture moves", float(to_reference), "==", 0.0),
            compare("drawn pictures, against unshared ones", _most(drawn - plain), ">", 1e-4),
            compare("parameters that could train", len(owned), "==", 0),
            compare("tensors in the artifact", len(artifact.tensors), "==", 0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: nothing is shared",
    )


def _fusion(recipe: Any, backbone: Any) -> Fusion:
    from pcs_testing import build_fusion

    return build_fusion(recipe, [Subject("style", concepts=())], backbone)


@torch.no_grad()
def _look(backbone: Any, fusion: Fusion, latents: torch.Tensor) -> torch.Tensor:
    """Return the network's output for each row; row 0 is the reference."""
    rows = len(latents)
    level = backbone.process.level(torch.full((rows,), 500))
    with Attachment(backbone, fusion) as net:
        cond = net.encode_text(tokenise(PROMPTS[:rows], backbone.tokenizer))
        cond = cond.with_(extra={"row.reference": torch.zeros(rows, dtype=torch.long)})
        return net.evaluate(latents, level, cond).output


def _most(difference: torch.Tensor) -> float:
    return float(difference.abs().max())
