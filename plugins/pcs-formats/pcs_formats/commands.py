"""``pcs import`` and ``pcs inspect``. Heavy imports wait."""

from __future__ import annotations

import json as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from pcs_cli import emit, notice

import_app = typer.Typer(add_completion=False, rich_markup_mode=None)
inspect_app = typer.Typer(add_completion=False, rich_markup_mode=None)

FILE = typer.Argument(
    metavar="FILE", help="A file of another tool: .safetensors, .pt, .bin or .ckpt."
)


# long: the options of a command
@import_app.command()
def import_(
    file: Annotated[Path, FILE],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.", show_default=False)
    ],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="The image generator that the file is drawn with.",
            show_default=False,
        ),
    ],
    token: Annotated[
        str,
        typer.Option("--token", help="What prompts write for it, as '<dog>'.", show_default=False),
    ] = "",
    noun: Annotated[
        str, typer.Option("--noun", help="What it shows, as dog.", show_default=False)
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda ...; auto takes a GPU where there is one.")
    ] = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, once the new one is complete.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Make an artifact of FILE (a LoRA, a learned word, an adapter) that `pcs sample` and `export` take.

    Of motion modules (AnimateDiff) and a folder of Stable Diffusion 1.5 it makes a model that --backbone takes.
    """
    from pcs_cli import destination, device_name, reporting
    from pcs_core import open_backbone
    from pcs_core.storage import save
    from pcs_formats.contents import read_contents
    from pcs_formats.importing import import_file
    from pcs_formats.motion_files import motion_of, write_model

    target = destination(out, overwrite=overwrite, inputs=[file.expanduser().parent])
    with reporting("importing"), target.claimed():
        contents = read_contents(file)
        if motion_of(contents) is not None:
            with target.filling() as ready:
                written = write_model(contents, backbone, ready, token=token, noun=noun)
            tell_model({"out": str(target.folder), **written}, json=json)
            return
        opened = open_backbone(backbone_name(backbone), device=device_name(device))
        artifact = import_file(contents, opened, token=token, noun=noun)
        with target.filling() as ready:
            save(artifact, ready)
    facts = {
        "out": str(target.folder),
        "system": artifact.recipe.id,
        "kind": artifact.extra["imported"]["kind"],
        "tokens": [concept.token for concept in artifact.concepts],
        "uses": [use.name for use in artifact.recipe.uses],
        "tensors": len(artifact.tensors),
    }
    imported = artifact.extra["imported"]
    facts |= {key: imported[key] for key in ("alpha from", "notes") if key in imported}
    if json:
        emit(to_json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for note in imported.get("notes", ()):
        notice(note)
    if any(phase.pretrain for phase in artifact.recipe.phases):
        notice(
            f"it is of no subject yet: pcs fit {target.folder}/recipe.toml PICTURES --adapter {target.folder} "
            "--out DIR"
        )
    emit(str(target.folder))


def tell_model(facts: dict[str, Any], *, json: bool) -> None:
    """Say where a model folder is, and what is to be known of it."""
    if json:
        emit(to_json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for note in facts["notes"]:
        notice(note)
    emit(facts["out"])


def backbone_name(backbone: str) -> str:
    """Return the name to open: a folder or file as an absolute path, so that the artifact finds it again."""
    path = Path(backbone).expanduser()
    return str(path.resolve()) if path.exists() else backbone


@inspect_app.command()
def inspect(
    file: Annotated[Path, FILE],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="Also match the keys with the layers of this image generator.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Say what FILE is: who takes it, how many keys match, what is missing, its base and its trigger words."""
    from pcs_formats.importing import inspect_file

    facts = inspect_file(file, None if backbone is None else backbone_name(backbone))
    if json:
        emit(to_json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for line in lines_of(facts):
        emit(line)


def lines_of(facts: dict[str, Any]) -> list[str]:
    """Return what `pcs inspect` prints."""
    lines = [f"{facts['file']}: {facts['tensors']} tensors ({', '.join(facts['types'])})"]
    if not facts["loaders"]:
        lines += ["no importer takes it; its keys begin:", *(f"  {key}" for key in facts["keys"])]
    for loader in facts["loaders"]:
        against = f"of {facts['backbone']}" if facts["backbone"] else "by their form"
        lines += [
            f"importer {loader['importer']}: {loader['kind']}; base: {loader['base']}",
            f"  {loader['matched']} of {loader['keys']} keys match {against}",
            *(f"  problem: {text}" for text in loader["problems"]),
            *(f"  missing: {key}" for key in loader["missing"]),
            *(f"  note: {text}" for text in loader["notes"]),
            *(f"  {name}: {listed(value)}" for name, value in loader["facts"].items()),
        ]
    lines += [f"metadata {key}: {value}" for key, value in facts["metadata"].items()]
    return lines


def listed(value: Any) -> str:
    """Return a fact on one line."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
