"""``pcs systems``, ``pcs techniques`` and ``pcs plugins``: what there is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Json
from pcs_cli.output import columns, emit, emit_json, notice
from pcs_core.errors import InputError, nearest

if TYPE_CHECKING:
    from pcs_core.catalogue import Catalogue
    from pcs_evidence import SystemRow


def systems(
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="Only these: ready, runs, checked, loads or planned.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List all systems and how far each is: planned, loads, checked, runs, ready."""
    from pcs_evidence import systems as all_systems
    from pcs_evidence.evidence import STATUSES
    from pcs_evidence.status import where

    if status is not None and status not in STATUSES:
        hint = nearest(status, STATUSES) or f" (known: {', '.join(STATUSES)})"
        raise InputError(f"--status: no status {status!r}{hint}")
    rows = all_systems()
    shown = [row for row in rows if status in (None, row.status)]
    if json:
        emit_json([system_facts(row) for row in shown])
        return
    table = [
        (
            row.id,
            "absent" if row.missing else row.status,
            where(row),
            row.framework,
            ",".join(row.scope),
            row.ref,
            row.name,
        )
        for row in shown
    ]
    emit(columns(("system", "status", "on", "framework", "scope", "ref", "name"), table))
    counts: Counter[str] = Counter(row.status for row in rows)
    notice(f"{len(rows)} systems: " + ", ".join(f"{counts[s]} {s}" for s in reversed(STATUSES)))


def system_facts(row: SystemRow) -> dict[str, Any]:
    """Return a system as JSON-able data."""
    from pcs_evidence.evidence import plain

    return {
        "id": row.id,
        "name": row.name,
        "ref": row.ref,
        "year": row.year,
        "framework": row.framework,
        "scope": list(row.scope),
        "techniques": list(row.techniques),
        "uses": list(row.uses),
        "backbones": list(row.backbones),
        "status": row.status,
        "missing": row.missing,
        "on": {backbone: plain(standing) for backbone, standing in row.on.items()},
        "paper": row.paper,
    }


def techniques(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show one with its settings.")
    ] = None,
    json: Json = False,
) -> None:
    """List techniques, or show one with its settings."""
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if id is not None:
        show_technique(known, id, json)
        return
    rows = technique_rows(known)
    if json:
        emit_json(rows)
        return
    table = [
        (
            row["id"] or "-",
            "yes" if row["installed"] else "no",
            row["distribution"] or "-",
            ", ".join(row["catalogue"]) or "-",
        )
        for row in rows
    ]
    emit(columns(("technique", "installed", "distribution", "catalogue"), table))


def technique_rows(known: Catalogue) -> list[dict[str, Any]]:
    """Return installed techniques, then those of the catalogue that no installed one implements.

    ``id`` is the code id, empty where a technique of the catalogue has no code here.
    """
    rows: list[dict[str, Any]] = [
        {
            "id": id,
            "installed": True,
            "distribution": known.distribution("techniques", id),
            "where": known.where("techniques", id),
            "catalogue": list(known.implements(id)),
        }
        for id in known.ids("techniques")
    ]
    implemented = known.implementations()
    for entry in _facts(known):
        if entry.id not in implemented:
            rows.append(
                {
                    "id": "",
                    "installed": False,
                    "distribution": getattr(entry, "distribution", ""),
                    "where": "",
                    "catalogue": [entry.id],
                }
            )
    return rows


def show_technique(known: Catalogue, id: str, json: bool) -> None:
    """Print one installed technique: what it does and its settings."""
    cls = known.get("techniques", id)
    schema, helps = cls.schema(), cls.setting_help()
    settings = [
        {
            "name": name,
            "default": schema["properties"][name].get("default"),
            "required": name in schema.get("required", ()),
            "help": helps.get(name, ""),
        }
        for name in cls.setting_names()
    ]
    about = (cls.__doc__ or "").strip()
    where, distribution = known.where("techniques", id), known.distribution("techniques", id)
    if json:
        emit_json(
            {
                "id": id,
                "about": about,
                "distribution": distribution,
                "where": where,
                "catalogue": list(cls.catalogue),
                "settings": settings,
            }
        )
        return
    emit(f"{id}  ({distribution}, {where})")
    emit(f"{about.splitlines()[0] if about else ''}\n")
    rows = [
        (s["name"], "required" if s["required"] else _short(s["default"]), s["help"])
        for s in settings
    ]
    emit(columns(("setting", "default", "meaning"), rows) if rows else "It has no settings.")


def plugins(json: Json = False) -> None:
    """List plugins and what they hold."""
    from pcs_core.catalogue import catalogue

    known = catalogue()
    rows: list[dict[str, Any]] = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "module": plugin.module,
            "holds": dict(plugin.counts),
            "error": "",
        }
        for plugin in known.plugins()
    ]
    rows += [
        {
            "name": broken.name,
            "distribution": broken.distribution,
            "version": "",
            "module": "",
            "holds": {},
            "error": broken.error,
        }
        for broken in known.broken
    ]
    if json:
        emit_json(rows)
        return
    table = []
    for row in rows:
        holds = ", ".join(f"{n} {noun.replace('_', ' ')}" for noun, n in row["holds"].items())
        table.append(
            (
                row["name"],
                row["distribution"] or "-",
                row["version"] or "-",
                f"broken: {row['error']}" if row["error"] else holds or "nothing",
            )
        )
    emit(columns(("plugin", "distribution", "version", "holds"), table))


def _facts(known: Catalogue) -> list[Any]:
    from pcs_core.catalogue.known import KNOWN_TECHNIQUES, facts

    return list(facts(known, KNOWN_TECHNIQUES))


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
