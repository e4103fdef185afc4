"""NeTI: the word depends on noise level and layer at a fixed norm, and only values see the bypass."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone
from pcs_core.backbone import Attachment, import_tensors, select_sites, tokenise
from pcs_core.data import TokenEdit
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import build_fusion

SYSTEM = "neti"
PROMPT = "a photo of <thing> on the beach"
LEVELS = (100, 500, 900)


def check(neutral: bool = False) -> CheckReport:
    """Fit a few steps on the tiny network; ``neutral`` leaves the bypass out."""
    started = time.monotonic()
    backbone: Any = open_backbone("tiny")
    before = snapshot(backbone)
    recipe = load(
        SYSTEM,
        overrides=[
            "mapper.steps=3",
            "mapper.accumulate=1",
            "tokens.mapper.frequencies=64",
            "tokens.mapper.hidden=32",
            f"tokens.mapper.bypass={0.0 if neutral else 0.2}",
        ],
    )
    subject = random_subject("thing")
    artifact = fit(recipe, subject, backbone)[0]
    fusion = build_fusion(recipe, [subject], backbone)
    import_tensors(fusion, dict(artifact.tensors))
    names = [s.name for s in select_sites(backbone.sites, "cross")]
    seen = [_look(backbone, fusion, names, level) for level in LEVELS]
    contexts = torch.stack([s["context"] for s in seen]).flatten(0, 1)  # [levels * layers, l d]
    apart = torch.cdist(contexts, contexts) + torch.eye(len(contexts)) * 1e9
    (edit,) = fusion.of(TokenEdit)
    words = (
        edit.eval().layer(torch.tensor(LEVELS) / 1000, len(names), torch.zeros(3).long()).detach()
    )
    noun = backbone.embedding.weight[backbone.tokenizer.encode("dog")].mean(0).norm()
    place = seen[0]["place"]
    keys = max(float(s["k"].max()) for s in seen)
    values = torch.stack([s["v"] for s in seen])  # [levels layers l]
    elsewhere = values.clone()
    elsewhere[..., place] = 0.0
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("least distance of contexts over (t, layer)", float(apart.min()), ">", 1e-4),
            compare(
                "largest | |word| - |noun| |",
                float((words.norm(dim=-1) - noun).abs().max()),
                "<",
                1e-4,
            ),
            compare("largest |k - W_k context|", keys, "<", 1e-5),
            compare(
                "least |v - W_v context| at the placeholder",
                float(values[..., place].min()),
                ">",
                1e-4,
            ),
            compare("largest elsewhere", float(elsewhere.max()), "<", 1e-5),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: bypass 0, so values read what keys read",
    )


@torch.no_grad()
def _look(backbone: Any, fusion: Any, names: list[str], level: int) -> dict[str, Any]:
    """Return each layer's text, and by how much edits move its keys and values at each position."""
    prompts = tokenise(
        [PROMPT], backbone.tokenizer, tokens=fusion.of(TokenEdit), concepts=[["<thing>"]]
    )
    at = backbone.process.level(torch.tensor([level]))
    unet = backbone.parts["denoiser"]
    recorded: dict[str, list[torch.Tensor]] = {k: [] for k in ("context", "k", "v")}
    with Attachment(backbone, fusion) as net:
        cond = net.encode_text(prompts, torch.tensor([0]), time=backbone.process.fraction(at))
        for name in names:
            processor = unet.get_submodule(name).processor
            processor.chain.run = _keep(processor.chain.run, unet.get_submodule(name), recorded)
        net.evaluate(torch.zeros(1, *backbone.latent_shape), at, cond)
    place = int(prompts.spans["concept.0"][0, 0])
    return {"place": place, **{k: torch.stack(v) for k, v in recorded.items()}}


def _keep(run: Any, attention: Any, recorded: dict[str, list[torch.Tensor]]) -> Any:
    """Wrap a chain's run: note how far its edits move keys and values, [l] for each site."""

    def noted(state: Any) -> Any:
        key, value = attention.to_k(state.context), attention.to_v(state.context)
        answer = run(state)
        recorded["context"].append(state.context[0].flatten())
        recorded["k"].append((state.k - key)[0].abs().amax(-1))
        recorded["v"].append((state.v - value)[0].abs().amax(-1))
        return answer

    return noted
