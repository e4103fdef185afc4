"""``pcs check``: a system's defining check, as its recipe describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Json
from pcs_cli.output import columns, emit, emit_json
from pcs_core.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from pcs_core.data import CheckReport


def check(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="A system (see pcs systems).")],
    neutral: Annotated[
        bool,
        typer.Option("--neutral", help="With its key setting at zero: then it must not hold."),
    ] = False,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours", help="Also on each neighbour of the system: there it must fail."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Measure the properties that define a system.

    Exits with 0 if they hold (and with --neighbours fail on every neighbour), with 1 if not.
    """
    checked = find_check(system)
    report = checked.run(neutral=neutral)
    others = [(n, checked.against(n)) for n in checked.table.neighbour] if neighbours else []
    passed = report.holds and not any(other.holds for _, other in others)
    if json:
        rows = [{"name": n.name, "why": n.why, **asdict(other)} for n, other in others]
        more = {"neighbours": rows} if neighbours else {}
        emit_json({**asdict(report), "neutral": neutral, **more})
    else:
        emit(render(report, neutral))
        if others:
            emit("\n".join(["Neighbours", *neighbour_lines(others)]))
    raise typer.Exit(0 if passed else 1)


@dataclass(frozen=True)
class Program:
    """The check of a system that a plugin checks by a program alone: no claims and no neighbours."""

    run: Callable[..., CheckReport]
    table: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(neighbour=()))


def find_check(system: str) -> Any:
    """Return what runs the check of ``system``.

    Raises
    ------
    UnknownNameError
        No such system (names the nearest), a planned one, or nothing installed runs checks.
    InputError
        Its recipe has no ``[check]``.
    """
    from pcs_core.catalogue import catalogue

    known = catalogue()
    programs = known.ids("checks")
    if system in programs and system not in known.recipe_files():
        return Program(known.get("checks", system))
    try:
        known.recipe_file(system)
    except UnknownNameError as error:
        hint = nearest(system, [*programs, *known.recipe_files()])
        if hint and "planned" not in str(error):
            raise UnknownNameError(f"no system {system!r}{hint}") from error
        raise
    checkers = known.ids("checkers")
    if not checkers:
        raise UnknownNameError("no installed plugin runs checks: install pcs-checks")
    return known.get("checkers", checkers[0])(system)


def neighbour_lines(others: list[tuple[Any, CheckReport]]) -> list[str]:
    """Return a line per neighbour: by which claim it fails, or that it passes."""
    rows = []
    for neighbour, report in others:
        failing = next((row.name for row in report.rows if not row.holds), "")
        verdict = f"fails: {failing}" if failing else "PASSES, and must not"
        rows.append((f"  {neighbour.name}", neighbour.why, verdict))
    return columns((), rows).splitlines()


def render(report: CheckReport, neutral: bool) -> str:
    """Return a report as text: what was measured against which bound."""
    rows = [
        (
            f"  {'holds' if row.holds else 'FAILS'}",
            row.name,
            f"{row.measured:.6g} {row.relation} {row.bound:.6g}",
        )
        for row in report.rows
    ]
    setting = ", key setting at zero" if neutral else ""
    on = f" on {report.backbone}" if report.backbone else ""
    lines = [
        f"{report.system}{on}{setting}: {'holds' if report.holds else 'does not hold'} "
        f"({report.seconds:.1f} s)"
    ]
    if rows:
        lines += columns((), rows).splitlines()
    if report.note:
        lines.append(f"  {report.note}")
    return "\n".join(lines)
