"""docs/choose.md: answers from the report of the benchmark, and the survey's own figures."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from pages.tree import DOCS, row
from pcs_core.catalogue import catalogue

FIDELITY, ALIGNMENT, DROPPED, COPIED = (
    "mini.clip-i",
    "mini.clip-t",
    "mini.prompt-drop",
    "mini.copy",
)
BASELINES = ("untuned", "copy")
Entry = dict[str, Any]


def report() -> Any:
    """Return what `pcs bench report` wrote of the last run on Mini."""
    return json.loads((DOCS / "comparison" / "report.json").read_text("utf-8"))


def score(entry: Entry, metric: str) -> float:
    """Return a system's mean of a metric."""
    return float(entry["scores"][metric]["mean"])


def answers_part() -> str:
    """Return a line per case: the three systems that the run puts first, with the figure that says so."""
    results = report()
    systems = [s for s in results["systems"] if s["system"] not in BASELINES]
    trained = [s for s in systems if s["parameters"]]
    front = [s for s in systems if s["system"] in results["front"]]
    text = "| what matters most | first | figure |\n|---|---|---|\n"
    cases: list[tuple[str, list[Entry], Callable[[Entry], float], str, bool]] = [
        ("likeness", systems, lambda s: score(s, FIDELITY), "similarity {:.2f}", True),
        (
            "the prompt is followed",
            systems,
            lambda s: score(s, ALIGNMENT),
            "alignment {:.2f}",
            True,
        ),
        (
            "likeness, and prompts are dropped in fewer than one picture in ten",
            [s for s in systems if score(s, DROPPED) < 0.1],
            lambda s: score(s, FIDELITY),
            "similarity {:.2f}",
            True,
        ),
        ("a short fit", trained, lambda s: s["seconds"], "{:.0f} s", False),
        ("a small artifact", trained, lambda s: s["parameters"], "{:,} numbers", False),
    ]
    for words, entries, key, shape, largest in cases:
        best = sorted(entries, key=key, reverse=largest)[:3]
        figures = ", ".join(shape.format(key(s)) for s in best)
        text += row(words, ", ".join(f"`{s['system']}`" for s in best), figures)
    no_fit = [s for s in systems if not s["parameters"]]
    names = ", ".join(f"`{s['system']}`" for s in no_fit)
    text += row("nothing is trained for a subject", names, "a second or less")
    names = ", ".join(f"`{s['system']}`" for s in sorted(front, key=lambda s: -score(s, FIDELITY)))
    text += row("no other is better in both likeness and prompts", names, "the Pareto front")
    return text


def scopes_part(rows: Sequence[Any]) -> str:
    """Return a line per scope of the survey: the systems that are built for it."""
    built = [r for r in rows if r.status != "planned"]
    text = "| scope | systems |\n|---|---|\n"
    for scope in sorted({scope for r in built for scope in r.scope}):
        text += row(scope, ", ".join(f"`{r.id}`" for r in built if scope in r.scope))
    return text


def figures_part() -> str:
    """Return a line per system of the run, most alike first."""
    results = report()
    text = "| system | similarity | alignment | prompts dropped | copies | fit, s | trained numbers |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for entry in sorted(results["systems"], key=lambda s: -score(s, FIDELITY)):
        seconds = "" if entry["seconds"] is None else f"{entry['seconds']:.0f}"
        numbers = "" if entry["parameters"] is None else f"{entry['parameters']:,}"
        means = (f"{score(entry, m):.2f}" for m in (FIDELITY, ALIGNMENT, DROPPED, COPIED))
        text += row(f"`{entry['system']}`", *means, seconds, numbers)
    return text


def published_part() -> str:
    """Return the survey's own figures of systems that are built here."""
    table = tomllib.loads((files("pcs_bench") / "published.toml").read_text("utf-8"))
    built = set(catalogue().recipe_files())
    text = (
        "| pictures of | system | backbone | text alignment | fidelity |\n|---|---|---|---|---|\n"
    )
    for line in table["row"]:
        if line.get("system") in built:
            text += row(
                line["type"],
                f"`{line['system']}`",
                line["backbone"],
                f"{line['text']:.3f}",
                f"{line['fidelity']:.3f}",
            )
    return text
