"""Perfusion: keys are the super-category's, all of the prompt, values the concept's, the edit has rank one."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone
from pcs_core.backbone import Attachment, import_tensors, select_sites, tokenise
from pcs_core.data import AttnEdit, AttnState, Conditioning, TokenEdit
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import build_fusion

SYSTEM = "perfusion"
BETAS = (0.2, 0.5, 0.8, 1.2, 2.0)


# long: one experiment, and every row that it is judged by
def check(neutral: bool = False) -> CheckReport:
    """Fit a few steps on the tiny network; ``neutral`` sets the edit's strength to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = [
        "tune.steps=6",
        "tune.accumulate=1",
        "tune.lr=5e-2",
        "tokens.learnable.init=random",
        "weights.key_locked.decay=0.5",
        "weights.key_locked.captions=300",
        f"weights.key_locked.strength={0.0 if neutral else 1.0}",
    ]
    subject = random_subject("thing")
    artifact = fit(load(SYSTEM, overrides=settings), subject, backbone)[0]
    gated, linear = (
        build_fusion(load(SYSTEM, overrides=[*settings, *more]), [subject], backbone)
        for more in ((), ["weights.key_locked.gated=false"])
    )
    for fusion in (gated, linear):
        import_tensors(fusion, dict(artifact.tensors))
    token: Any = next((e for e in gated.of(TokenEdit) if hasattr(e, "superclass")), None)
    apart, keys, alike = _prompt_lock(backbone, gated, token)
    same, other, rank, least = 1.0, -1.0, 0, float("inf")
    shrinking, shown = 0, []
    if not gated.of(AttnEdit):
        same, other, least, shown = 0.0, 1.0, 0.0, [1.0]
    table: Any = backbone.embedding
    eye = torch.eye(int(table.weight.shape[1]))
    for one, flat in zip(gated.of(AttnEdit), linear.of(AttnEdit), strict=True):
        locked: Any = one
        key, value = (w.detach() for w in locked.weights)
        k, v = _moved(one, token.input, 0.6)
        same = min(same, float(F.cosine_similarity(k, token.superclass @ key.T)))
        other = max(other, float(F.cosine_similarity(v, token.input @ value.T)))
        for after, weight in zip(_moved(flat, eye, 0.6), (key, value), strict=True):
            change = (after.T - weight).double()
            rank = max(rank, int(torch.linalg.matrix_rank(change, rtol=1e-4)))
            least = min(least, float(change.abs().max()))
        effects = [float(_moved(one, token.input, beta)[1].norm()) for beta in BETAS]
        shrinking += all(a > b for a, b in zip(effects, effects[1:], strict=False))
        shown.append(effects[-1] / effects[0])
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("least cosine of the concept's key and its class's", same, ">", 0.999),
            compare("largest cosine of its value and the base's", other, "<", 0.999),
            compare("largest rank of W_edit - W", rank, "<=", 1),
            compare("smallest over projections of the largest |W_edit - W|", least, ">", 0.0),
            compare("what keys are made of less the class's prompt", apart, "<", 1e-4),
            compare("keys of the prompt less their formula", keys, "<", 1e-3),
            compare("mean s^2 of other words by that without statistics", alike, "<", 0.7),
            compare(
                "cross-attention sites where raising beta shrinks the value",
                shrinking,
                "==",
                len(select_sites(backbone.sites, "cross")),
            ),
            compare("what the highest beta leaves of it", max(shown), "<", 0.1),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: strength of the edit 0, so there is none",
    )


@torch.no_grad()
def _prompt_lock(backbone: Any, fusion: Any, token: Any) -> tuple[float, float, float]:
    """Return of a drawing: how far keys' text is from the class's prompt, keys from their formula; mean s^2.

    The last one is relative to that of s(e) = i^T e / i^T i, which knows nothing of how texts are spread.
    """
    if token is None:
        return 1.0, 1.0, 1.0
    prompt = "a photo of {} on the beach"
    tokens_of_prompt = tokenise(
        [prompt.format("<thing>")], backbone.tokenizer, tokens=fusion.of(TokenEdit), subjects=[0]
    )
    with Attachment(backbone, fusion) as net:
        cond = net.encode_text(tokens_of_prompt, torch.tensor([0]), extra=net.strengths(1))
    words = [prompt.format("dog"), "a red house in the snow", "two cats", "a drawing of a tree"]
    with Attachment(backbone, type(fusion)()) as net:
        plain = net.encode_text(tokenise(words, backbone.tokenizer)).text
    read = next((v for v in cond.extra.values() if v.shape == cond.text.shape), cond.text)
    apart, worst = float((read[0] - plain[0]).abs().max()), 0.0
    for edit in fusion.of(AttnEdit):
        key = edit.weights[0].detach()
        k = cond.text @ key.T
        state = AttnState(edit.site, cond.text, cond.text, edit.site.heads, k, k, k)
        k = edit.eval().qkv(state, cond).k[0]
        s = (plain[0] @ token.direction[0])[:, None]
        gate = torch.sigmoid((s - 0.6) / 0.15)
        expected = plain[0] @ key.T + (gate * token.superclass - s * token.input) @ key.T
        worst = max(worst, float((k - expected).abs().max()))
    flat, i = plain[1:].flatten(0, 1), token.input[0]
    alike = (flat @ token.direction[0]).square().mean() / (
        flat @ i / i.square().sum()
    ).square().mean()
    return apart, worst, float(alike)


@torch.no_grad()
def _moved(edit: Any, text: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values [m width] that ``edit`` gives inputs [m d] at sampling."""
    key, value = (text[None] @ w.detach().T for w in edit.weights)
    extra = {"key_locked.beta": torch.tensor([beta]), "key_locked.tau": torch.tensor([0.15])}
    cond = Conditioning(text=text[None], subject=torch.tensor([0]), extra=extra)
    state = AttnState(edit.site, text[None], text[None], edit.site.heads, key, key, value)
    state = edit.eval().qkv(state, cond)
    return state.k[0], state.v[0]
