"""The figures in words: the table and the model card, and where the weights ship."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretraining.subjects import GIVEN, KEPT

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "plugins" / "pcs-mini-adapters" / "pcs_mini_adapters" / "weights"
OWN, NONE, OTHER, UNTUNED = "own references", "strength 0", "another's references", "untuned"
"""Rows of the figures."""


def ship(system: str, arguments: argparse.Namespace) -> None:
    """Put the weights with their card and sheet into the distribution.

    Only what was trained on and measured with the installed ``mini`` is shipped.
    """
    from pcs_core import load, open_backbone, save

    adapter = load(arguments.out / system)
    figures = json.loads((arguments.out / f"{system}.json").read_text())
    mini = open_backbone("mini").card
    for what, sha256 in (
        ("weights", adapter.backbone.hash),
        ("figures", figures["backbone_sha256"]),
    ):
        if sha256 != mini.hash:
            raise SystemExit(
                f"{system}: the {what} are of another backbone than the installed mini"
            )
    files = {
        "README.md": card(adapter, figures).encode(),
        "sheet.jpg": (arguments.out / f"{system}.jpg").read_bytes(),
    }
    shipped = replace(adapter, backbone=replace(mini, location=""))
    save(shipped, SHIPPED / system, extra_files=files, overwrite=True)
    size = sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file())
    print(f"{system}: shipped; all of them take {size / 1e6:.1f} MB", file=sys.stderr)
    if size > 20_000_000:
        raise SystemExit("the distribution may hold 20 MB")


def card(adapter: Any, figures: Mapping[str, Any]) -> str:
    """Return the model card."""
    facts = adapter.extra["pretrained"]
    recipe = adapter.recipe
    hours = facts["seconds"] / 3600
    chance = 1 / len(figures["subjects"])
    return f"""# {recipe.name} on Mini

Weights of `{recipe.id}` ({recipe.paper}) for the embedded backbone `mini` with weights of sha256
`{adapter.backbone.hash[:12]}`: {facts["parameters"] / 1e6:.2f} million parameters in half precision,
trained for {facts["steps"]} steps on {facts["images"]} pictures ({facts["records"]} records of the data
set `{facts["source"]}`) in {hours:.1f} hours of one or two CPU cores, with the recipe that lies beside them.

{recipe.notes.strip()}

## What it carries over

{len(figures["subjects"])} subjects that no training drew, {GIVEN} references each, one picture at each of
{figures["pictures"]} places; {figures["seconds_a_subject"]:.2f} seconds a subject to read the references,
nothing trains. Similarity is the mean cosine to {KEPT} further pictures of the subject; nearest is the
share of pictures that are closer to their own subject than to any other of them (chance {chance:.2f}).
"Another's references" keeps prompt and noise, and swaps what is shown.

{table(figures)}

A line per subject: two references, four pictures, two at strength 0, two with another's references.

![sheet](sheet.jpg)

Measured: {", ".join(f"`{name}`" for name in figures["subjects"])}.

## Limits

It knows the small world of Mini: drawings, toy-like solids, avatars. Of photographs it was shown none.
It was measured by the metrics of that world, which are networks too.

Made by `make adapters`. Apache-2.0.
"""


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    metrics = list(figures["metrics"])
    head = ["", *(f"similarity, `{r}`" for r in metrics), *(f"nearest, `{r}`" for r in metrics)]
    head += ["own is better for", "place"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in figures["metrics"][metrics[0]]:
        measured = [figures["metrics"][r][row] for r in metrics]
        cells = [f"{f['similarity']:.3f}" for f in measured]
        cells += [f"{f['nearest']:.2f}" if "nearest" in f else "" for f in measured]
        better = row in (NONE, OTHER, UNTUNED)
        total = len(figures["subjects"])
        cells.append(f"{measured[0]['better_for']} of {total}" if better else "")
        place = figures["place_accuracy"].get(row)
        cells.append("" if place is None else f"{place:.2f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", *by_group(figures, metrics[0])]
    if joint := figures.get("pairs"):
        lines += ["", f"Two subjects in one picture, likeness of each one's best half over "
                  f"{joint['pairs']} pairs: {joint[OWN]:.3f}, at strength 0 {joint[NONE]:.3f}."]  # fmt: skip
    return "\n".join(lines)


def by_group(figures: Mapping[str, Any], metric: str) -> list[str]:
    """Return a line per group of subjects: how like they are by one metric, with and without the adapter."""
    measured = figures["metrics"][metric]
    rows = [row for row in measured if "each" in measured[row]]
    belongs = list(figures["subjects"].values())
    lines = []
    for group in dict.fromkeys(belongs):
        here = [i for i, g in enumerate(belongs) if g == group]
        means = [
            f"{row} {sum(measured[row]['each'][i] for i in here) / len(here):.3f}" for row in rows
        ]
        lines.append(f"- {group} ({len(here)}), similarity by `{metric}`: {', '.join(means)}")
    return lines
