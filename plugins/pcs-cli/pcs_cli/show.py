"""``pcs show``: what an artifact is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Json
from pcs_cli.output import columns, emit, emit_json
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pcs_core.storage.facts import ArtifactFacts


def show(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE", help="An artifact, a file that pcs export wrote, or a drawn PNG."
        ),
    ],
    json: Json = False,
) -> None:
    """Show an artifact's facts, every byte of it checked, also where its plugins are not installed.

    Of a file that `pcs export` wrote, and of a drawn picture, it shows where it comes from.
    """
    from pcs_cli.opening import refuse_several
    from pcs_core.storage import read_facts
    from pcs_core.storage.facts import describe_missing

    folder = artifact.expanduser()
    if folder.is_file():
        show_origin(folder, json)
        return
    if folder.suffix and not folder.exists():
        raise InputError(f"{folder}: there is no such file")
    with refuse_several(folder):
        known = read_facts(folder)
    facts = artifact_facts(known, folder)
    if json:
        emit_json(facts)
        return
    card = facts["backbone"]
    rows = [
        ("subject", facts["subject"]),
        ("prompts say", ", ".join(f"{c['token']} ({c['noun']})" for c in facts["concepts"]) or "-"),
        ("recipe", f"{facts['recipe']}  (sha256 {facts['recipe_hash'][:12]})"),
        ("backbone", f"{card['id']}  (sha256 {card['hash'][:12]})"),
        ("size", " x ".join(str(side) for side in reversed(card["size"]))),
        ("seed", str(facts["seed"])),
        ("losses", ", ".join(f"{n} {_number(v)}" for n, v in facts["losses"].items()) or "-"),
        ("owns", f"{facts['numbers']:,} numbers in {facts['tensors']} tensors"),
        ("files", ", ".join(f"{n} ({_bytes(s)})" for n, s in facts["files"].items())),
        ("versions", ", ".join(f"{n} {v}" for n, v in facts["versions"].items())),
    ]
    if facts["strengths"]:
        rows.append(
            ("strengths", f"{', '.join(facts['strengths'])}  (pcs sample --strength NAME=0.5)")
        )
    extra = dict(facts["extra"])
    if references := extra.pop("references", None):
        rows.append(("references", said_references(references)))
    if extra:
        rows.append(("more", ", ".join(f"{k}: {v}" for k, v in extra.items())))
    if known.missing:
        rows.append(("missing", f"{describe_missing(known.missing)}: install it to draw"))
    emit(columns((), rows))


def said_references(hashes: Sequence[str]) -> str:
    """Return how many references there were, and how their hashes begin."""
    return f"{len(hashes)}  (sha256 of their pixels {', '.join(h[:12] for h in hashes)})"


def show_origin(file: Path, json: bool) -> None:
    """Show what an exported file or a drawn picture says of where it comes from."""
    from pcs_core.catalogue import service

    known = service("recorded_origin")(file)
    if json:
        emit_json(known)
        return
    base, rows = known["base"], []
    for one in known.get("together", (known,)):
        rows += origin_rows(one)
    rows += [
        ("base", f"{base['id']}  (sha256 {base['sha256'][:12]})"),
        ("licence", f"of the base: {known['licences']['base']}"),
    ]
    rows.append(("versions", ", ".join(f"{n} {v}" for n, v in known["versions"].items())))
    emit(columns((), rows))


def origin_rows(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return recipe, references and imported file, as far as an origin has them."""
    rows = []
    if recipe := known.get("recipe"):
        rows.append(("recipe", f"{recipe['id']}  (sha256 {recipe['sha256'][:12]})"))
    if references := known.get("references"):
        rows.append(("references", said_references([r["sha256"] for r in references])))
    if imported := known.get("imported"):
        rows.append(("imported", f"{imported['kind']}  (sha256 {imported['sha256'][:12]})"))
    return rows


def artifact_facts(facts: ArtifactFacts, folder: Path) -> dict[str, Any]:
    """Return what ``folder`` holds as JSON-able data."""
    manifest = facts.manifest
    card = manifest.backbone
    return {
        "path": str(folder.resolve()),
        "subject": manifest.subject,
        "concepts": [
            {"name": c.name, "token": c.token, "noun": c.noun, "kind": c.kind}
            for c in manifest.concepts
        ],
        "recipe": str(manifest.recipe.get("recipe", {}).get("id", "")),
        "recipe_hash": manifest.recipe_hash,
        "uses": list(facts.techniques),
        "strengths": [] if facts.missing else strengths_of(facts),
        "backbone": {
            "id": card.id,
            "hash": card.hash,
            "family": card.family,
            "size": list(card.size),
            "prediction": card.prediction,
            "location": card.location,
        },
        "seed": manifest.seed,
        "losses": dict(manifest.losses),
        "tensors": len(facts.tensors),
        "numbers": sum(t.numel() for t in facts.tensors.values()),
        "features": sorted(facts.features),
        "files": {f.name: f.stat().st_size for f in sorted(folder.iterdir()) if f.is_file()},
        "versions": dict(manifest.versions),
        "extra": dict(manifest.extra),
        "missing": {id: list(names) for id, names in facts.missing.items()},
    }


def strengths_of(facts: ArtifactFacts) -> list[str]:
    """Return the names by which `pcs sample --strength` weighs the artifact."""
    from pcs_core.assembly import recipe_from_document
    from pcs_core.catalogue import catalogue
    from pcs_core.storage.artifact import as_meant
    from pcs_engine.strengths import listed_strengths

    document = as_meant(facts.manifest.recipe, catalogue())
    return listed_strengths(recipe_from_document(document).uses)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _bytes(size: int) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = size // 1000
    return f"{size:.0f} GB"
