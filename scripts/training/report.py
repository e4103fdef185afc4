"""The result on disk: JSON with the machine, the versions of both sides and the rows, and a plot."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from inference.machine import describe, rates, versions
from inference.plot import bars
from inference.report import rounded

ABOUT = {
    "seconds": "a step of all subjects, median over rounds; of a script that trains one subject, as often",
    "spread": "of one command's step: interquartile range in seconds (lowest to highest below four rounds)",
    "processor_seconds": "as seconds, of processor time: what else runs on the machine counts less in it",
    "ratio": "seconds of the row named in versus over own seconds: above 1 is faster",
    "job_seconds": "the whole command of twice the steps, starting and loading too; of a peer, for one subject",
    "gflop": "the least of a step of all subjects: 2 forwards with adapters or words, 3 with whole weights",
    "share_of_matmul": "gflop a second over the machine's own rate of square matrix products",
    "final_loss": "the last that the command said, of a single row: noise; null where it says none",
}


def write(out: Path, measured: dict[str, Any], model: str, peers: Path | None, took: float) -> None:
    """Write ``out`` and an SVG of the same name."""
    rate = rates(("float32",)).get("float32")
    for row in measured["rows"]:
        rows_rate = row["gflop"] / row["seconds"] if row["seconds"] > 0 else None
        row["share_of_matmul"] = rows_rate / rate if rate and rows_rate else None
    machine = describe(torch.get_num_threads())
    document = {
        "about": ABOUT,
        "model": model,
        "machine": machine,
        "matmul_gflop_per_second": rate,
        "versions": {**versions(), "diffusers_scripts": revision(peers)},
        "measured_seconds": took,
        **measured,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(document), indent=1, ensure_ascii=False)
    out.write_text(text + "\n", encoding="utf-8")
    below = f"{machine['processor']}, {machine['threads']} threads, load {machine['load']}"
    drawn = [{**row, "ratio": row["ratio"] or 0.0} for row in measured["rows"]]
    svg = bars(drawn, "Seconds of a step of all subjects (shorter is better)", below)
    out.with_suffix(".svg").write_text(svg, encoding="utf-8")


def revision(checkout: Path | None) -> str | None:
    """Return the commit of a checkout, None without one."""
    if checkout is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
