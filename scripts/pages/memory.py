"""README.md: the memory of a LoRA fit on real models, from the counts of `scripts/memory.py`."""

from __future__ import annotations

import json

from pages.tree import DOCS, row

FULL = 4
"""Bytes of a number in fp32."""
TRAINED = 4 * FULL
"""Bytes of a trained number: itself, its gradient, AdamW's two moments."""


def memory_part() -> str:
    """Return a line per model: weights, what a step keeps, and the sum, in gigabytes (10^9 bytes)."""
    known = json.loads((DOCS / "memory.json").read_text("utf-8"))
    text = "| model | picture | parameters | weights | kept for the backward pass | in all |\n"
    text += "|---|---|---|---|---|---|\n"
    for facts in known.values():
        parameters = sum(facts["parameters"].values())
        weights, kept = parameters * FULL, facts["kept"] * FULL
        total = weights + kept + facts["trained"] * TRAINED
        side = facts["side"]
        text += row(
            facts["name"],
            f"{side} x {side}",
            f"{parameters / 1e9:.2f} billion",
            *(f"{size / 1e9:.1f} GB" for size in (weights, kept, total)),
        )
    return text
