"""``pcs export``: a system or an artifact in another tool's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Device, Json, Out, Overwrite, Settings
from pcs_cli.output import emit, emit_json, notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe


PRINTED = (
    *("system", "files", "readme", "tolerance", "versions"),
    *("words", "prompt", "base", "sampling", "strength", "approximation", "provenance"),
)
"""What ``--json`` says of an exporter's facts."""


# long: the options of a command
def export(
    what: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT|SYSTEM", help="An artifact, a system or a recipe.toml."),
    ],
    out: Out,
    to: Annotated[str, typer.Option("--to", help="The format: onnx ...", show_default=False)],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="The image generator; that of the artifact, or mini, where none is given.",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="Weights of a pre-trained system, where no plugin holds them for the backbone.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the format. Repeatable."),
    ] = None,
    approximate: Annotated[
        int,
        typer.Option(
            "--approximate",
            metavar="RANK",
            min=0,
            help="To diffusers and kohya: write what is no LoRA as the nearest one of a rank; says the error.",
            show_default=False,
        ),
    ] = 0,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance",
            help="Say in safetensors' metadata what they come from: recipe, base, hashes of references ...",
        ),
    ] = True,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write ARTIFACT, or SYSTEM for every subject, in another tool's format."""
    from pcs_cli.merge import read_settings
    from pcs_cli.output_folder import destination
    from pcs_cli.progress import reporting
    from pcs_core.catalogue import catalogue

    folder = Path(what).expanduser()
    target = destination(out, overwrite=overwrite, inputs=[folder] if folder.is_dir() else [])
    exporter = catalogue().get("exporters", to)
    given = [*(option or ()), *([f"approximate={approximate}"] if approximate else [])]
    options = read_settings(given, to, exporter, option="--option")

    from pcs_core import export as run

    with reporting("opening"), target.claimed():
        chosen, opened = open_exported(what, backbone, device, settings or ())
        with target.filling() as ready:
            facts = run(
                chosen,
                ready,
                to=to,
                backbone=opened,
                adapter=adapter,
                provenance=provenance,
                **options,
            )
    if json:
        emit_json({"out": str(target.folder), "format": to, **summary(facts)})
    else:
        for line in usage_lines(facts):
            notice(line)
        emit(str(target.folder))


def open_exported(
    what: str, backbone: str | None, device: str, settings: Sequence[str]
) -> tuple[Personalization | Recipe, Backbone]:
    """Return the artifact or the recipe named ``what``, and the backbone it is exported on.

    Raises
    ------
    InputError
        Settings are given for an artifact, whose recipe is made.
    """
    from pcs_cli.opening import backbone_name, device_name, open_artifact, open_for
    from pcs_core.assembly import load_recipe
    from pcs_engine import open_backbone

    folder = Path(what).expanduser()
    if folder.is_dir():
        if settings:
            raise InputError(
                f"--set {settings[0]}: the recipe of an artifact is fixed; export its system instead"
            )
        artifact = open_artifact(folder)
        return artifact, open_for(artifact, backbone, device)
    name = backbone_name(backbone or "mini")
    recipe = load_recipe(what, backbone=name, overrides=settings)
    return recipe, open_backbone(name, device=device_name(device))


def summary(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is worth printing of an exporter's facts."""
    return {key: facts[key] for key in PRINTED if key in facts}


def usage_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return lines on how the files are used, where the exporter says it."""
    lines = [f"write {text!r} for {token}" for token, text in facts.get("words", {}).items()]
    if "approximation" in facts:
        errors = dict(facts["approximation"]["errors"])
        overall, rank = errors.pop("overall"), facts["approximation"]["rank"]
        kinds = ", ".join(f"{kind} {error:.1%}" for kind, error in errors.items())
        lines.append(
            f"approximated by updates of rank {rank}: {overall:.1%} of what was learned is left out ({kinds})"
        )
    if "prompt" in facts:
        numbers = facts["sampling"]
        lines.append(
            f"as in {facts['prompt']!r}, on {facts['base']['id']}, with {numbers['scheduler']}, "
            f"{numbers['steps']} steps, guidance scale {numbers['scale']:g}, strength {facts['strength']:g}"
        )
    return lines
