"""``pcs bench run`` and ``pcs bench report``. Heavy imports wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli import emit, notice
from pcs_core.errors import InputError, nearest

if TYPE_CHECKING:
    from pcs_bench.run.conduct import Outcome
    from pcs_bench.suites import Suite

Backbone = Annotated[
    str, typer.Option("--backbone", metavar="ID|PATH|HUB_ID", help="The image generator.")
]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda ...; auto takes a GPU where there is one.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[SYSTEM:]KEY=VALUE",
        help="Change a setting, as in pcs fit, of one system or all. Repeatable.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes at work; 0: one per core or device.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics", help="Metrics by id, as a,b (see pcs bench metrics).", show_default=False
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Folder to make, or to go on in.", show_default=False
    ),
]


def run(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's id, or its file.")],
    out: Out,
    systems: Annotated[
        str,
        typer.Option(
            "--systems",
            help='Systems, as a,b; "ready" and "loads" stand for all that are so far and draw pictures '
            "from a prompt alone.",
        ),
    ] = "ready",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")] = 4,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Subjects; 0: all.")] = 0,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Prompts of each subject; 0: all.")
    ] = 0,
    backbone: Backbone = "mini",
    metrics: Metrics = None,
    settings: Settings = None,
    fit_seed: Annotated[int, typer.Option("--fit-seed", min=0, help="Seed of every fit.")] = 0,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also untuned, and copies.")
    ] = True,
    workers: Workers = 0,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray.")] = "local",
    device: Device = "auto",
) -> None:
    """Fit, draw and score every system on every subject of SUITE; a line per picture in DIR/cells.jsonl.

    The same command goes on after an interruption: what is there is not done again. Exit 0: every cell
    is done; 3: finished, some have failed (their lines say why); 2: bad input.
    """
    from pcs_bench import suites
    from pcs_bench.run.conduct import run_bench
    from pcs_bench.run.plan import BASELINES, Protocol
    from pcs_cli import device_name

    loaded = suites.load(suite)
    names = tuple(s.name for s in loaded.subjects)
    chosen = named_systems(systems)
    protocol = Protocol(
        suite=suite,
        systems=(*(b for b in BASELINES if baselines and b not in chosen), *chosen),
        subjects=names[:limit] if limit else names,
        seeds=seeds,
        prompts=prompts,
        fit_seed=fit_seed,
        backbone=backbone,
        device=device_name(device),
        settings=tuple(settings or ()),
        metrics=named_metrics(metrics, loaded, backbone),
    )
    try:
        outcome = run_bench(protocol, out.expanduser(), workers=workers, engine=engine)
    except KeyboardInterrupt:
        notice(f"interrupted: what is done is in {out}; the same command goes on")
        raise typer.Exit(130) from None
    tell(outcome, out)


def tell(outcome: Outcome, out: Path) -> None:
    """Say how a run ended, and leave with its exit code."""
    notice(
        f"{outcome.cells - outcome.failed} of {outcome.cells} cells done, {outcome.kept} of them before"
    )
    for why, count in sorted(outcome.errors.items(), key=lambda e: -e[1])[:10]:
        notice(f"  {count} x {why}")
    emit(str(out))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def tell_errors(errors: Sequence[str]) -> None:
    """Say what failed and how often, and leave with 3 if something did."""
    counts = {why: errors.count(why) for why in dict.fromkeys(errors)}
    for why, count in sorted(counts.items(), key=lambda e: -e[1])[:10]:
        notice(f"  {count} x {why}")
    if counts:
        raise typer.Exit(3)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of pcs bench run.")],
    alignment: Annotated[
        str, typer.Option("--alignment", help="Metric across the trade-off.", show_default=False)
    ] = "",
    fidelity: Annotated[
        str, typer.Option("--fidelity", help="Metric up the trade-off.", show_default=False)
    ] = "",
    title: Annotated[str, typer.Option("--title", help="Heading.", show_default=False)] = "",
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR2", help="Write there instead.", show_default=False),
    ] = None,
) -> None:
    """Write report.html, .csv, .json and .tex into DIR from what is done so far."""
    from pcs_bench.report.write import write_report

    for path in write_report(
        folder.expanduser(),
        alignment=alignment,
        fidelity=fidelity,
        title=title,
        to=None if to is None else to.expanduser(),
    ):
        emit(str(path))


ELSEWHERE = frozenset({"video", "3d", "attack-and-defense", "extra-conditions"})
"""Scopes of systems that no suite of pictures and prompts can measure."""


PAST_PLANNED = frozenset({"loads", "checked", "runs", "ready"})


def named_systems(text: str) -> tuple[str, ...]:
    """Return the systems that ``"a,b"`` names, "ready" and "loads" (or further) spelled out.

    Those words leave out what draws no pictures, or needs more than a prompt to draw one.

    Raises
    ------
    InputError
        It names none.
    """
    from pcs_evidence import systems

    names: dict[str, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name in ("ready", "loads"):
            names |= dict.fromkeys(
                row.id
                for row in systems()
                if row.status in ({"ready"} if name == "ready" else PAST_PLANNED)
                and not ELSEWHERE.intersection(row.scope)
            )
        elif name:
            names[name] = None
    if not names:
        raise InputError("give at least one system: --systems a,b (see pcs systems)")
    return tuple(names)


def named_metrics(text: str | None, suite: Suite, backbone: str) -> tuple[str, ...]:
    """Return the metrics that ``"a,b"`` names; without a text those that fit backbone and suite.

    The Mini metrics know the Mini backbone alone, and no other metric knows it: they are never mixed.

    Raises
    ------
    InputError
        No such metric; one whose weights are absent is a failed row, not an error.
    """
    from pcs_bench import metrics

    if text is not None:
        asked = tuple(dict.fromkeys(m.strip() for m in text.split(",") if m.strip()))
        for id in asked:
            if id not in metrics.ids():
                close = nearest(id, metrics.ids())
                raise InputError(f"no metric {id!r}{close}: see pcs bench metrics")
        return asked
    ids = [id for id in metrics.ids() if id.startswith("mini.") == (backbone == "mini")]
    only = {"pair": ("pair-", "mixing"), "face": ("identity.",)}
    for kind, words in only.items():
        if suite.kind != kind:
            ids = [id for id in ids if not any(word in id for word in words)]
    return tuple(ids)
