"""Textual Inversion: one optimiser step moves one embedding row and nothing else."""

from __future__ import annotations

import time
from typing import Any

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import fit, open_backbone
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "textual-inversion"


def check(neutral: bool = False) -> CheckReport:
    """Take one step on the tiny network; ``neutral`` takes none."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    subject = random_subject("thing")
    recipe = load(SYSTEM, overrides=[f"token.steps={0 if neutral else 1}", "token.batch=2"])
    start = fit(load(SYSTEM, overrides=["token.steps=0"]), subject, backbone)[0]
    artifact = fit(recipe, subject, backbone)[0]
    (name, rows), *others = artifact.tensors.items()
    moved = (rows != start.tensors[name]).any(dim=1).sum()
    table: Any = backbone.embedding
    hidden = int(table.weight.shape[1])
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("embedding rows that moved", float(moved), "==", 1),
            compare(
                "tensors of text encoder, UNet and VAE that changed",
                changed(before, backbone),
                "==",
                0,
            ),
            compare("tensors in the artifact", 1 + len(others), "==", 1),
            compare("rows of the tensor", rows.shape[0], "==", 1),
            compare("its width against the text encoder's", rows.shape[1] - hidden, "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: no step is taken",
    )
