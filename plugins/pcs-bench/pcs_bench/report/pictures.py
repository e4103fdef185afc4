"""Pictures of a report: small, inside the page, and honest about those that are gone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pcs_bench.report.results import Results
from pcs_bench.run.plan import UNTUNED
from pcs_bench.run.store import Store

SIDE = 112
"""Largest side of a picture on the page, in pixels."""
SUBJECTS, PROMPTS, WORST = 8, 6, 3


def data_uri(path: Path, side: int = SIDE) -> str:
    """Return a picture as a ``data:`` address of a small JPEG, or "" if it cannot be read."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return ""
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def grids(results: Results) -> list[dict[str, Any]]:
    """Return a grid per subject: its references, and a row of pictures (first seed) per system."""
    store, damaged = Store(results.folder), set(results.damaged)
    grids = []
    by_key = {line["key"]: line for line in results.lines}
    for subject in results.protocol["subjects"][:SUBJECTS]:
        lines = [line for line in results.lines if line["subject"] == subject and line["seed"] == 0]
        said = _said(lines)
        indices = list(said)[:PROMPTS]
        rows = []
        for row in results.rows:
            cells = [
                _cell(by_key.get(f"{row.system}/{subject}/{i}/0"), store, damaged) for i in indices
            ]
            rows.append({"name": row.system, "cells": cells})
        references = sorted(store.references(subject).glob("*.png"))[:PROMPTS]
        grids.append(
            {
                "subject": subject,
                "references": [data_uri(path) for path in references],
                "prompts": [said[i] for i in indices],
                "rows": rows,
            }
        )
    return grids


def _said(lines: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return each prompt by its number: in plain words where the untuned backbone was told it."""
    prompts: dict[int, str] = {}
    for line in sorted(lines, key=lambda line: (line["index"], line["system"] != UNTUNED)):
        prompts.setdefault(line["index"], line.get("prompt", line["template"]))
    return prompts


def worst(results: Results) -> list[dict[str, Any]]:
    """Return each system's lowest pictures in alignment and in fidelity, with prompt and score."""
    store, damaged = Store(results.folder), set(results.damaged)
    rows = []
    for row in results.rows:
        if row.baseline:
            continue
        cells = []
        for id in dict.fromkeys((results.alignment, results.fidelity)):
            if not id:
                continue
            metric = results.metric(id)
            scored = [
                (line["scores"][id], line)
                for line in results.lines
                if line["system"] == row.system and line.get("scores", {}).get(id) is not None
            ]
            scored.sort(key=lambda pair: pair[0], reverse=not metric.higher)
            for value, line in scored[:WORST]:
                cells.append(
                    {
                        **_cell(line, store, damaged),
                        "metric": metric.title,
                        "value": value,
                        "prompt": line["prompt"],
                        "subject": line["subject"],
                        "seed": line["seed"],
                    }
                )
        if cells:
            rows.append({"name": row.system, "cells": cells})
    return rows


def _cell(line: Mapping[str, Any] | None, store: Store, damaged: Sequence[str] | set[str]) -> Any:
    if line is None:
        return {"uri": "", "why": "not done"}
    if line["state"] != "done":
        return {"uri": "", "why": line["error"]}
    uri = "" if line["key"] in damaged else data_uri(store.picture(line["hash"]))
    return {"uri": uri, "why": "" if uri else "the picture is damaged: run again"}
