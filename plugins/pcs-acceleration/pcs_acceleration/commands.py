"""``pcs preset list``, ``show`` and ``check``. Heavy imports wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli import emit, notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_acceleration.comparing import Member
    from pcs_core.backbone import Backbone

app = typer.Typer(
    help="Presets: what makes drawing faster, and the gate that it passes.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]


@app.command("list")
def listing(as_json: Json = False) -> None:
    """List the installed presets."""
    from pcs_core import installed, load_preset

    titles = {id: load_preset(id).title for id in installed().ids("presets")}
    if as_json:
        emit(json.dumps(titles, indent=2))
    else:
        width = max((len(id) for id in titles), default=0)
        emit("\n".join(f"{id:<{width}}  {title}" for id, title in titles.items()))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID|FILE", help="A preset.")],
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="As it is on this backbone.", show_default=False),
    ] = None,
) -> None:
    """Print a preset as data: what it uses, its numbers, and what its gate allows."""
    from pcs_core import load_preset

    preset = load_preset(name, backbone=backbone)
    facts = {**preset.facts(), "gate": dict(preset.bounds), "notes": preset.notes.strip()}
    emit(json.dumps(facts, indent=2, ensure_ascii=False))


@app.command()
# long: the options of a command
def check(
    name: Annotated[str, typer.Argument(metavar="ID|FILE", help="A preset.")],
    folders: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="Fitted subjects to draw.")
    ],
    prompts: Annotated[
        int, typer.Option("--prompts", min=1, help="Prompts of each artifact.")
    ] = 12,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")] = 2,
    subject: Annotated[
        list[Path] | None,
        typer.Option(
            "--subject",
            metavar="FOLDER",
            help="Pictures of an artifact's subject, in their order; shipped subjects need none.",
            show_default=False,
        ),
    ] = None,
    identity: Annotated[
        str,
        typer.Option(
            "--identity", help="Metric of likeness to the references.", show_default=False
        ),
    ] = "",
    alignment: Annotated[
        str, typer.Option("--alignment", help="Metric of the text.", show_default=False)
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where the verdicts go.", show_default=False
        ),
    ] = None,
    backbone_at: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="Where the artifacts' backbone is now; it must have the same weights.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda ...; auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Draw with and without the preset from the same noise, and say whether it loses too much.

    One verdict for each system among the artifacts, which must be of one backbone. Exit code 1: one did not
    pass.
    """
    from pcs_acceleration.comparing import check_preset, metric, places
    from pcs_cli import device_name, write_verdict
    from pcs_core import installed, load, load_preset, open_backbone

    artifacts = [load(folder.expanduser()) for folder in folders]
    cards = {artifact.backbone.hash: artifact.backbone for artifact in artifacts}
    if len(cards) != 1:
        raise InputError(
            "the artifacts are of several backbones: check them one backbone at a time"
        )
    if subject and len(subject) != len(folders):
        raise InputError(f"{len(folders)} artifacts, but --subject {len(subject)} times: one each")
    (card,) = cards.values()
    preset = load_preset(name, backbone=card.id)
    known = installed().ids("backbones")
    place = backbone_at or (card.id if card.id in known else card.location or card.id)
    backbone = open_backbone(place, device=device_name(device))
    prefix = "mini." if card.id == "mini" else ""
    eyes = [metric(identity or f"{prefix}clip-i"), metric(alignment or f"{prefix}clip-t")]
    verdicts = {}
    for system, members in systems(artifacts, folders, subject, backbone).items():
        verdict = check_preset(
            preset,
            members,
            backbone,
            identity=eyes[0],
            alignment=eyes[1],
            prompts=places(backbone)[:prompts],
            seeds=seeds,
            watch=lambda member: notice(f"drawn: {member.name}"),
        )
        write_verdict(preset, backbone.card, system, verdict.plain(), out)
        verdicts[system] = verdict
    if as_json:
        emit(json.dumps({s: v.plain() for s, v in verdicts.items()}, indent=2))
    else:
        for system, verdict in verdicts.items():
            word = "passed" if verdict.passed else "FAILED"
            emit(f"{preset.id} for {system} on {card.id}: {word}: {verdict.summary}")
    if not all(v.passed for v in verdicts.values()):
        raise typer.Exit(1)


def systems(
    artifacts: Sequence[Any],
    folders: Sequence[Path],
    references_of: Sequence[Path] | None,
    backbone: Backbone,
) -> dict[str, list[Member]]:
    """Return the artifacts by system, each with its references."""
    from pcs_acceleration.comparing import Member, references

    by_system: dict[str, list[Member]] = {}
    for i, (artifact, path) in enumerate(zip(artifacts, folders, strict=True)):
        given = references_of[i] if references_of else None
        pictures = references(artifact, backbone, given)
        member = Member(artifact, pictures, path.name)
        by_system.setdefault(artifact.recipe.id, []).append(member)
    return by_system
