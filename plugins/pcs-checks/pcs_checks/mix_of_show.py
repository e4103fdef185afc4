"""Mix-of-Show: fusion keeps each concept's activations, and a box's prompt stays in its box."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import (
    Technique,
    fit,
    hookimpl,
    merge_personalizations,
    open_backbone,
    sample,
)
from pcs_core.data import AttnEdit, AttnState, Box, Conditioning, Fusion, Layout, Run, Use
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "mix-of-show"
SEEN: list[torch.Tensor] = []


class CapturedOutput(AttnEdit):
    """Keeps what one attention site gives."""

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Look, and change nothing."""
        assert state.out is not None
        SEEN.append(state.out.detach().clone())
        return state


class Witness(Technique):
    """Looks at the first cross-attention site."""

    id = "checks.witness"

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Look there."""
        return Fusion(edits=(CapturedOutput(run.sites("cross")[0]),))


def check(neutral: bool = False) -> CheckReport:
    """Fit and fuse two concepts on the tiny network; ``neutral`` sets the updates and the rewriting to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = ["tune.steps=4", "tune.lr=2e-2", "tune.batch=1", "sample.steps=2"]
    if neutral:
        settings += ["weights.lora.alpha=0.0", "text_lora.alpha=0.0", "attention.regions.ratio=0.0"]
    recipe = load(SYSTEM, backbone=backbone.card.id, overrides=settings)
    subjects = [random_subject("first", "dog", seed=1), random_subject("second", "cat", seed=2)]
    artifacts = fit(recipe, subjects, backbone)
    merged = merge_personalizations(
        artifacts, backbone, method="gradient-fusion", iterations=100, steps=2
    )
    fused = {
        name.split("/")[1]: value
        for name, value in merged.tensors.items()
        if name.startswith("weights.gradient_fusion/")
    }
    deltas = [_deltas(p, 0.0 if neutral else 1.0) for p in artifacts]
    inputs = [_inputs(p, backbone, deltas[0]) for p in artifacts]
    # the encoder is solved for first, from what each concept's own reads
    mean = {name: (deltas[0][name] + deltas[1][name]) / 2 for name in deltas[0]}
    ours, theirs = (
        sum(
            float((x[name] @ (d[name] - joined[name]).T).square().sum())
            for d, x in zip(deltas, inputs, strict=True)
            for name in x
        )
        for joined in (fused, mean)
    )
    outside, inside = _regions(merged, backbone)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare(
                "activation error of the fusion, of averaging's",
                ours / max(theirs, 1e-12),
                "<",
                1.0,
            ),
            compare("activation error of averaging", theirs, ">", 0.0),
            compare("attention outside box 2, when its prompt changes", outside, "==", 0.0),
            compare("attention inside box 2, when its prompt changes", inside, ">", 0.0),
            compare("concepts of the fusion", len(merged.concepts), "==", 2),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: updates and rewriting at 0",
    )


def _deltas(artifact: Any, strength: float) -> dict[str, torch.Tensor]:
    """Return the low-rank updates by layer."""
    return {
        name.split("/")[1]: strength * b @ artifact.tensors[f"{name[:-1]}A"]
        for name, b in artifact.tensors.items()
        if name.endswith("/B")
    }


def _inputs(artifact: Any, backbone: Any, layers: Any) -> dict[str, torch.Tensor]:
    """Return what each layer of the text encoder reads [n in] of the two prompts, without padding."""
    inputs: dict[str, list[torch.Tensor]] = {}
    ids: list[torch.Tensor] = []
    text, end = backbone.parts["text"], backbone.tokenizer.end
    with ExitStack() as stack:

        def note_ids(_: Any, given: Any, named: Any) -> None:
            ids[:] = [named["input_ids"] if "input_ids" in named else given[0]]

        stack.callback(text.register_forward_pre_hook(note_ids, with_kwargs=True).remove)
        for name, module in text.named_modules():
            if name in layers:

                def hear(_: Any, given: Any, name: str = name) -> None:
                    for row, row_ids in zip(given[0].detach(), ids[0].tolist(), strict=True):
                        inputs.setdefault(name, []).append(row[: row_ids.index(end) + 1])

                stack.callback(module.register_forward_pre_hook(hear).remove)
        token = artifact.concepts[0].token
        sample(artifact, backbone, [f"photo of a {token}", token], steps=1, scale=1.0)
    return {name: torch.cat(rows) for name, rows in inputs.items()}


def _regions(artifact: Any, backbone: Any) -> tuple[float, float]:
    """Return how far another prompt of box 2 moves the first site's output, outside and inside the box."""
    recipe = replace(artifact.recipe, uses=(*artifact.recipe.uses, Use("witness", Witness())))
    looks = []
    for words in ("a red toy", "a blue cat"):
        SEEN.clear()
        layout = Layout(
            (
                Box("<first>", (0.0, 0.0, 0.5, 1.0), "a <first>"),
                Box("<second>", (0.5, 0.0, 1.0, 1.0), words),
            )
        )
        prompt = "a photo of <first> and <second>"
        sample(replace(artifact, recipe=recipe), backbone, prompt, layout=layout, steps=1)
        looks.append(SEEN[0].unflatten(1, backbone.latent_shape[-2:]))
    half = backbone.latent_shape[-1] // 2
    difference = (looks[0] - looks[1]).abs()
    return float(difference[:, :, :half].max()), float(difference[:, :, half:].max())
