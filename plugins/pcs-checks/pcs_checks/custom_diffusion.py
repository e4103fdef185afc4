"""Custom Diffusion: only keys, values and tokens move; the merge keeps every concept's own answers."""

from __future__ import annotations

import time
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, merge_personalizations, open_backbone, text_features
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "custom-diffusion"
OWNERS = {"tokens.learnable", "weights.kv"}
CAPTIONS = ("a photo of a {}", "a {} on the beach", "a drawing of a {}")


# long: one experiment, and every row that it is judged by
def check(neutral: bool = False) -> CheckReport:
    """Fit two concepts on the tiny network and merge them; ``neutral`` sets the deltas' strength to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    recipe = load(
        SYSTEM,
        overrides=[
            "tune.steps=8",
            'tune.lr={"tokens.learnable/*"=1e-2, "weights.kv/*"=5e-3}',
            "data.augment.variants=2",
            "regularizers.prior_preservation.count=2",
            "sample.steps=2",
            f"weights.kv.strength={0.0 if neutral else 1.0}",
        ],
    )
    subjects = [random_subject("first", "dog", seed=1), random_subject("second", "cat", seed=2)]
    artifacts = fit(recipe, subjects, backbone)
    owners = {name.split("/")[0] for p in artifacts for name in p.tensors}
    sites = {
        name.split("/", 1)[1]
        for p in artifacts
        for name in p.tensors
        if name.startswith("weights.kv/")
    }
    elsewhere = [s for s in sites if ".attn2/" not in s or s.rsplit("/", 1)[1] not in ("k", "v")]
    merged = merge_personalizations(artifacts, backbone)
    mean = merge_personalizations(artifacts, backbone, method="average")
    strength = 0.0 if neutral else 1.0
    fitted = [_deltas(p, "weights.kv", strength) for p in artifacts]
    together, average = (_deltas(p, "weights.merge", 1.0) for p in (merged, mean))
    miss = max(
        float((rows @ (together[key] - delta[key]).T).abs().max())
        for delta, rows in zip(fitted, [_caption_rows(p, backbone) for p in artifacts], strict=True)
        for key in delta
    )
    regular = torch.cat(
        [
            _rows(None, backbone, c.format(n), 1)
            for n in ("dog", "cat", "car", "tree")
            for c in CAPTIONS
        ]
    )
    drift, plain = (
        sum(float((regular @ d.T).square().sum()) for d in deltas.values()) ** 0.5
        for deltas in (together, average)
    )
    moved = max(float(delta.abs().max()) for deltas in fitted for delta in deltas.values())
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest |W_merged c - W_i c| over target captions", miss, "<", 1e-3),
            compare(
                "drift on regularisation captions against averaging's",
                drift / max(plain, 1e-12),
                "<",
                1.0,
            ),
            compare("largest delta of a key or value", moved, ">", 0.0),
            compare("deltas outside attn2.to_k and to_v", len(elsewhere), "==", 0),
            compare(
                "uses that own tensors beside tokens and deltas",
                len(owners - {"tokens.learnable", "weights.kv"}),
                "==",
                0,
            ),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: strength of the deltas 0",
    )


def _deltas(artifact: Any, owner: str, strength: float) -> dict[str, torch.Tensor]:
    """Return the deltas in force by site and projection."""
    prefix = f"{owner}/"
    return {
        name.removeprefix(prefix): strength * value
        for name, value in artifact.tensors.items()
        if name.startswith(prefix)
    }


def _caption_rows(artifact: Any, backbone: Any) -> torch.Tensor:
    """Return the text features of the concept's own words in its target caption."""
    concept = artifact.concepts[0]
    return _rows(artifact, backbone, f"a photo of {concept.token} {concept.noun}", None)


def _rows(artifact: Any, backbone: Any, prompt: str, first: int | None) -> torch.Tensor:
    """Return features [n d] from position ``first`` (None: the token's) to the last word."""
    text, (end,), span = text_features(artifact, backbone, prompt)
    return text[0, span[0] if first is None else first : end]
