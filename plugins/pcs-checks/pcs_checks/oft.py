"""COFT: each weight is the frozen one times four rotations within a radius, so angles of neurons stay."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone, sample
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "oft"
PROMPT = "a photo of <thing> on the beach"
DRAW: dict[str, Any] = {"steps": 2, "scale": 1.0, "seed": 1}
BLOCKS, EPS = 4, 6e-5
"""Of the authors' script: rotations a layer, and what a generator's norm may reach per number of a block."""


def check(neutral: bool = False) -> CheckReport:
    """Fit a few steps on the tiny network; ``neutral`` allows rotations of radius 0 only."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    recipe = load(
        SYSTEM,
        overrides=[
            "tune.steps=6",
            "tune.lr=2e-2",
            "regularizers.prior_preservation.count=2",
            "sample.steps=2",
            *(["weights.peft.eps=0.0"] if neutral else []),
        ],
    )
    artifact = fit(recipe, random_subject("thing"), backbone)[0]
    tuned = sample(artifact, backbone, PROMPT, **DRAW)
    turned, skew, angles, moved = {}, 0.0, 0.0, float("inf")
    bound, counts = 0.0, set()
    for name, vector in artifact.tensors.items():
        layer = name.split("/")[2]
        module: Any = backbone.parts["denoiser"].get_submodule(layer)
        weight = module.weight.detach().double()
        counts.add(len(vector))
        projected, excess = within(vector.double(), weight.shape[1])
        bound = max(bound, excess)
        blocks = rotations(projected, weight.shape[1])
        identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
        skew = max(skew, float((blocks.mT @ blocks - identity).abs().max()))
        new = weight @ torch.block_diag(*blocks).T
        angles = max(angles, float((_cosines(new) - _cosines(weight)).abs().max()))
        moved = min(moved, float((new - weight).abs().max()))
        turned[layer] = new.float()
    merged = _with_weights(backbone, turned)
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest |R^T R - I| of a block", skew, "<", 1e-4),
            compare("largest change of a cosine between neurons", angles, "<", 1e-4),
            compare("smallest over layers of the largest |W' - W|", moved, ">", 1e-6),
            compare("layers with another number of rotations", len(counts - {BLOCKS}), "==", 0),
            compare("a generator's norm before it is held, by the radius", bound, ">", 2.0),
            compare(
                "attached against W' = W R, R held within the radius",
                float((tuned - merged).abs().max()),
                "<",
                1e-5,
            ),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: radius 0, so W' = W",
    )


def within(vector: torch.Tensor, width: int) -> tuple[torch.Tensor, float]:
    """Return the upper triangles held within the radius eps n^2 / sqrt(blocks), and the largest excess.

    ``vector`` [blocks, n (n - 1) / 2] of a layer of ``width`` inputs; the norm is that of the whole matrix.
    """
    radius = EPS * (width // vector.shape[0]) ** 2 / vector.shape[0] ** 0.5
    norm = (2.0 * vector.square().sum(1, keepdim=True)).sqrt()
    return vector * (radius / norm.clamp_min(1e-30)).clamp(max=1.0), float(norm.max() / radius)


def rotations(vector: torch.Tensor, width: int) -> torch.Tensor:
    """Return R = (I - Q) (I + Q)^-1 [blocks n n] of the upper triangles [blocks, n (n - 1) / 2]."""
    n = width // vector.shape[0]
    skew = vector.new_zeros(vector.shape[0], n, n)
    rows, columns = torch.triu_indices(n, n, 1)
    skew[:, rows, columns] = vector
    skew = skew - skew.mT
    identity = torch.eye(n, dtype=vector.dtype)
    return (identity - skew) @ torch.linalg.inv(identity + skew)


def _cosines(weight: torch.Tensor) -> torch.Tensor:
    rows = F.normalize(weight, dim=1)
    return rows @ rows.T


@torch.no_grad()
def _with_weights(backbone: Any, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Draw with other weights in place, then put the network's own back."""
    unet = backbone.parts["denoiser"]
    kept = {name: unet.get_submodule(name).weight.data for name in weights}
    try:
        for name, weight in weights.items():
            unet.get_submodule(name).weight.data = weight
        return sample(None, backbone, PROMPT.replace("<thing>", "qwe dog"), **DRAW)
    finally:
        for name, weight in kept.items():
            unet.get_submodule(name).weight.data = weight
