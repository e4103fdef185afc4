"""``report.html``, ``.csv``, ``.json`` and ``.tex`` of a benchmark's folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from pcs_bench import published as figures
from pcs_bench.report.claims import claims, p_words
from pcs_bench.report.pictures import grids, worst
from pcs_bench.report.plot import trade_off
from pcs_bench.report.results import Results, Row, gather
from pcs_bench.report.statistics import EXACT, FLIPS
from pcs_bench.run.plan import BASELINES
from pcs_bench.run.store import write_bytes, write_json
from pcs_cli import printable

HIDDEN = ("cells", "subject_facts")
"""Keys of the protocol that the page shows elsewhere."""


def write_report(
    folder: Path,
    *,
    alignment: str = "",
    fidelity: str = "",
    title: str = "",
    to: Path | None = None,
) -> list[Path]:
    """Write the report of a folder into it, or ``to`` another; return page, table, data and TeX.

    Raises
    ------
    InputError
        The folder holds no benchmark, or nothing of it is done.
    """
    results = gather(folder, alignment=alignment, fidelity=fidelity)
    paths = [(to or folder) / f"report.{kind}" for kind in ("html", "csv", "json", "tex")]
    write_bytes(paths[0], page(results, title).encode())
    write_bytes(paths[1], table(results).encode())
    write_json(paths[2], data(results))
    write_bytes(paths[3], tex(results).encode())
    return paths


def published() -> list[list[Any]]:
    """Return the survey's Table 1: type, method, system id, framework, backbone, CLIP-T, CLIP-I."""
    return [
        [row.type, row.method, row.system, row.framework, row.backbone, row.text, row.fidelity]
        for row in figures.table()
    ]


def page(results: Results, title: str = "") -> str:
    """Return the page: everything in one file, nothing loaded from anywhere."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    protocol = results.protocol
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files(__package__).joinpath("page.html.j2").read_text("utf-8")
    )
    plot = _plot(results)
    shown = {k: v for k, v in protocol.items() if k not in HIDDEN}
    done = sum(row.done for row in results.rows)
    html = template.render(
        title=title or f"{protocol['suite']} on {protocol['backbone']}",
        counts=(
            f"{done} of {len(protocol['cells'])} pictures: {len(results.rows)} rows, "
            f"{len(protocol['subjects'])} subjects, {protocol['seeds']} seeds, the same noise for all."
        ),
        protocol=protocol,
        unit_words=_unit(results),
        metrics=results.metrics,
        rows=[_table_row(row, results) for row in results.rows],
        plot=Markup(plot) if plot else "",  # made by plot.py, which escapes names
        front=results.front,
        claims=claims(results),
        smallest_p=_smallest_p(results),
        differences=_differences(results),
        machine=_machine(results),
        grids=grids(results),
        worst=worst(results),
        errors=results.errors,
        damaged=results.damaged,
        missing=results.missing,
        published=published(),
        protocol_text=json.dumps(shown, indent=1, ensure_ascii=False),
    )
    return printable(html)


def table(results: Results) -> str:
    """Return every cell as CSV: what it is, its scores, its picture, or why there is none."""
    buffer = io.StringIO()
    ids = [m.id for m in results.metrics if m.per == "picture"]
    names = [_cell(id) for id in ids]
    head = ["system", "subject", "prompt", "kind", "index", "seed", "state", *names, "seconds"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, "picture", "sha256", "error"])
    for line in results.lines:
        scores, errors = line.get("scores", {}), line.get("errors", {})
        why = "; ".join([line.get("error", ""), *(f"{k}: {v}" for k, v in errors.items())])
        writer.writerow(
            [
                *map(
                    _cell, (line["system"], line["subject"], line.get("prompt", line["template"]))
                ),
                *(_cell(line["kind"]), line["index"], line["seed"], line["state"]),
                *("" if scores.get(id) is None else f"{scores[id]:.6g}" for id in ids),
                "" if line.get("seconds") is None else line["seconds"],
                *map(_cell, (line.get("picture", ""), line.get("sha256", ""), why.strip("; "))),
            ]
        )
    return buffer.getvalue()


def _cell(text: str) -> str:
    """Return a text as a spreadsheet shows it, and never reckons with it."""
    return printable(f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text)


def data(results: Results) -> dict[str, Any]:
    """Return the summary as plain data."""
    return {
        "protocol": {k: v for k, v in results.protocol.items() if k != "cells"},
        "unit": results.unit,
        "alignment": results.alignment,
        "fidelity": results.fidelity,
        "metrics": [asdict(m) for m in results.metrics],
        "systems": [asdict(row) for row in results.rows],
        "pairs": [asdict(pair) for pair in results.pairs],
        "front": results.front,
        "claims": claims(results),
        "errors": [{"error": why, "count": count} for why, count in results.errors],
        "damaged": results.damaged,
        "missing": results.missing,
        "fits": list(results.fits.values()),
        "published": published(),
    }


def tex(results: Results) -> str:
    """Return Table 1 as a LaTeX tabular that needs no package."""
    head = ["Type", "Method", "Framework", "Backbone", *(_tex(m.title) for m in results.metrics)]
    lines = [
        f"% {_tex(results.protocol['suite'])}: means over {_unit(results)}, 95% bootstrap intervals",
        f"\\begin{{tabular}}{{llll{'r' * len(results.metrics)}}}",
        "\\hline",
        " & ".join(head) + r" \\",
        "\\hline",
    ]
    for row in results.rows:
        shown = _table_row(row, results)
        cells = [
            (rf"\textbf{{{c['mean']}}}" if c["best"] else str(c["mean"]))
            + (f" {{\\scriptsize [{c['span']}]}}" if c["span"] else "")
            for c in shown["cells"]
        ]
        words = [_tex(str(shown[k])) for k in ("type", "name", "framework", "backbone")]
        lines.append(" & ".join([*words, *cells]) + r" \\")
    return printable("\n".join([*lines, "\\hline", "\\end{tabular}", ""]))


def _tex(text: str) -> str:
    table = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(table.get(c, r"\textbackslash{}" if c == "\\" else c) for c in text)


def _table_row(row: Row, results: Results) -> dict[str, Any]:
    cells = []
    for metric in results.metrics:
        score = row.scores.get(metric.id)
        if score is None:
            cells.append({"mean": "–", "span": "", "best": False})
            continue
        others = [
            r.scores[metric.id].mean
            for r in results.rows
            if not r.baseline and metric.id in r.scores
        ]
        top = (max if metric.higher else min)(others, default=None)
        cells.append(
            {
                "mean": f"{score.mean:.3f}",
                "span": "" if score.low is None else f"{score.low:.3f}, {score.high:.3f}",
                "best": not row.baseline and score.mean == top,
            }
        )
    return {
        "type": row.type,
        "name": row.name,
        "baseline": row.baseline,
        "framework": row.framework,
        "backbone": row.backbone,
        "paper_url": _paper(row.paper),
        "cells": cells,
        "done": row.done,
        "failed": row.failed,
        "seconds": "" if row.seconds is None else f"{row.seconds:.1f}",
        "draw": "" if row.draw_seconds is None else f"{row.draw_seconds:.2f}",
        "memory": "" if row.bytes is None else f"{row.bytes / 2**20:.0f} ({row.bytes_of})",
        "parameters": "" if row.parameters is None else f"{row.parameters:,}",
    }


def _paper(paper: str) -> str:
    return (
        f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
        if paper.startswith("arXiv:")
        else ""
    )


def _plot(results: Results) -> str:
    points = results.points()
    if not points:
        return ""
    spans = {}
    for row in results.rows:
        if row.system in points:
            x, y = row.scores[results.alignment], row.scores[results.fidelity]
            signs = [
                1 if results.metric(i).higher else -1 for i in (results.alignment, results.fidelity)
            ]
            if None not in (x.low, x.high, y.low, y.high):
                across = sorted((signs[0] * x.low, signs[0] * x.high))  # type: ignore[operator]
                up = sorted((signs[1] * y.low, signs[1] * y.high))  # type: ignore[operator]
                spans[row.system] = (*across, *up)
    labels = [
        m.title if m.higher else f"{m.title} (negated: less is better)"
        for m in (results.metric(results.alignment), results.metric(results.fidelity))
    ]
    return trade_off(
        points,
        results.front,
        baselines=[s for s in points if s in BASELINES],
        intervals=spans,  # type: ignore[arg-type]
        across=labels[0],
        up=labels[1],
    )


def _smallest_p(results: Results) -> dict[str, Any]:
    """Return the least p that the test of these pairs can give, adjusted for their number."""
    units = max((p.units for p in results.pairs), default=1)
    count = len([p for p in results.pairs if p.metric == results.alignment]) or 1
    least = 2.0 ** (1 - units) if units <= EXACT else 1 / (FLIPS + 1)
    return {"units": units, "pairs": count, "p": p_words(min(1.0, least * count))}


def _differences(results: Results) -> list[dict[str, Any]]:
    names = [row.system for row in results.rows]
    tables = []
    for id in dict.fromkeys((results.alignment, results.fidelity)):
        pairs = {}
        for pair in results.pairs:
            if pair.metric == id:
                pairs[pair.first, pair.second] = pair.difference, pair.adjusted
                pairs[pair.second, pair.first] = -pair.difference, pair.adjusted
        if not pairs:
            continue
        rows = [
            {"name": a, "cells": [_difference(pairs.get((a, b))) for b in names]} for a in names
        ]
        tables.append({"title": results.metric(id).title, "names": names, "rows": rows})
    return tables


def _difference(pair: tuple[float, float] | None) -> dict[str, Any]:
    if pair is None:
        return {"difference": "", "p": "", "strong": False}
    return {"difference": f"{pair[0]:+.3f}", "p": p_words(pair[1]), "strong": pair[1] < 0.05}


def _unit(results: Results) -> str:
    subjects: Sequence[Any] = results.protocol["subjects"]
    if results.unit == "subject":
        return f"{len(subjects)} subjects"
    what = "this subject" if len(subjects) == 1 else f"these {len(subjects)} subjects alone"
    return f"prompts of a subject (few subjects: the intervals speak of {what})"


def _machine(results: Results) -> str:
    machine = results.protocol.get("machine", {})
    parts = [
        machine.get("cuda") or machine.get("architecture", ""),
        f"{machine.get('cores')} cores",
    ]
    torch = results.protocol.get("versions", {}).get("torch", "")
    return (
        f"{', '.join(p for p in parts if p)}, torch {torch}, device {results.protocol['device']}."
    )
