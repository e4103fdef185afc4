"""``pcs sample``: draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Device, Json, Out, Overwrite, Seed
from pcs_cli.output import emit, emit_json, notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.output_folder import Destination
    from pcs_core.backbone import Backbone
    from pcs_core.data import Layout, Personalization, Preset

COLUMNS = 4
"""Pictures in a row of the sheet."""


def sample(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR PROMPT", help="An artifact and what to draw; with --base, PROMPT."
        ),
    ],
    out: Out,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=10_000, help="How many pictures.")
    ] = 4,
    seed: Seed = 0,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="ID|PATH|HUB_ID",
            help="Draw with this untuned backbone instead of an artifact.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=1000, help="Denoising steps.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", min=0.0, max=100.0, help="Guidance scale.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="ddim, dpm, euler ...", show_default=False)
    ] = None,
    negative: Annotated[
        str | None, typer.Option("--negative", help="What not to draw.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="ID|FILE",
            help="Techniques and numbers put over the recipe: fast, balanced ... (pcs preset list).",
            show_default=False,
        ),
    ] = None,
    added: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="TECHNIQUE",
            help="Add a technique that trains nothing, by id. Repeatable.",
            show_default=False,
        ),
    ] = None,
    settings_of: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of what --preset and --with add: <technique>.<field>. Repeatable.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        Path | None,
        typer.Option(
            "--layout",
            metavar="FILE.json",
            help="Where things should stand: boxes of phrases, and points.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            "--strength",
            metavar="NAME=VALUE",
            help="Change a strength of the artifact. Repeatable.",
            show_default=False,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="Where the artifact's backbone is now; it must have the same weights.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="What runs the networks: compile, onnx ...", show_default=False
        ),
    ] = None,
    deployment: Annotated[
        Path | None,
        typer.Option(
            "--deployment",
            metavar="DIR",
            help="A folder that pcs export wrote, to draw with in place of the backbone.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the engine. Repeatable."),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw PROMPT with the artifact in DIR.

    Writes 000.png ..., sheet.png and sample.json, nothing else. A video backbone writes 000.mp4 ...
    (000.gif where no encoder is installed), and 000.png holds the frames of 000 side by side.

    What is not given (steps, scale, scheduler, negative) comes from the artifact's recipe.
    """
    from pcs_cli.opening import open_artifact
    from pcs_cli.output_folder import destination
    from pcs_cli.progress import reporting
    from pcs_core.data import SampleSettings
    from pcs_core.engine.opening import runs_deployments

    options = read_options(engine, option or ())
    deployed = deployment is not None or (engine is not None and runs_deployments(engine))
    if deployed and (base is not None or backbone is not None):
        raise InputError("--deployment holds its own backbone: leave out --base and --backbone")
    artifact, prompt = split_words(words, base, backbone)
    target = destination(out, overwrite=overwrite, inputs=[artifact] if artifact else [])
    person = open_artifact(artifact) if artifact else None
    wanted = read_layout(layout, prompt, person)
    strengths = read_strengths(strength or ())
    chosen = read_preset(preset, added or (), settings_of or (), person, base)
    usual = chosen.over(person.recipe.sample if person else SampleSettings())
    settings = SampleSettings(
        steps=usual.steps if steps is None else steps,
        scale=usual.scale if scale is None else scale,
        scheduler=scheduler or usual.scheduler,
        negative=usual.negative if negative is None else negative,
    )
    opened, pictures = None, None
    with reporting("opening") as reporter:
        from pcs_core.engine import sample as engine_sample

        if deployed:
            opened = open_deployed(person, deployment, engine, device, options)
        else:
            opened = open_for_sampling(person, base, backbone, device)
            if engine is not None:
                from pcs_core.engine import open_engine

                opened = open_engine(opened, engine, **options)
        pictures = engine_sample(
            person,
            opened,
            prompt,
            count=count,
            seed=seed,
            steps=settings.steps,
            scale=settings.scale,
            scheduler=settings.scheduler,
            negative=settings.negative,
            preset=chosen,
            layout=wanted,
            strengths=strengths,
            watch=(reporter.drawing,),
        )
    facts = describe(person, artifact, opened, prompt, seed, count, settings)
    facts |= described(wanted, strengths)
    if chosen.uses or chosen.sample:
        facts["preset"] = described_preset(chosen, opened, person)
    if engine is not None or deployed:
        facts["engine"] = dict(getattr(opened, "engine", {}))
    if pictures.dim() == 5:
        facts["clips"] = clip_facts(count, pictures.shape[2])
    write(target, pictures, facts)
    if json:
        emit_json({"out": str(target.folder), **facts})
    else:
        if note := facts.get("preset", {}).get("note"):
            notice(note)
        if note := facts.get("clips", {}).get("note"):
            notice(note)
        emit(str(target.folder))


def split_words(
    words: Sequence[str], base: str | None, backbone: str | None
) -> tuple[Path | None, str]:
    """Return the artifact's folder (None with --base) and the prompt.

    Raises
    ------
    InputError
        One of the two is missing, or there is more.
    """
    if base is not None:
        if backbone is not None:
            raise InputError("--base names the backbone already: leave out --backbone")
        if len(words) == 1:
            return None, words[0]
        if len(words) == 2 and Path(words[0]).is_dir():
            raise InputError(
                f"--base {base} draws untuned: leave out {words[0]!r}, "
                "or leave out --base to draw with it"
            )
        raise InputError(f"--base takes one PROMPT, got {len(words)} words: put it in quotes")
    if len(words) == 2:
        return Path(words[0]), words[1]
    if len(words) == 1:
        what = "PROMPT" if Path(words[0]).is_dir() else "DIR"
        raise InputError(
            f"{what} is missing: pcs sample DIR PROMPT, or pcs sample --base mini PROMPT"
        )
    raise InputError(f"DIR and one PROMPT are wanted, got {len(words)} words: put it in quotes")


def read_layout(file: Path | None, prompt: str, person: Personalization | None) -> Layout | None:
    """Return the layout in ``file``, its phrases found in ``prompt``, if ``person`` reads one."""
    from pcs_cli.layouts import load_layout
    from pcs_core.engine.opening import check_layout

    if file is None:
        return None
    layout = load_layout(file.expanduser())
    check_layout(layout, [prompt], person)
    return layout


def read_strengths(given: Sequence[str]) -> dict[str, float]:
    """Return name -> value of the words ``NAME=VALUE``.

    Raises
    ------
    InputError
        Not of this form, no finite number, or a name given twice.
    """
    found: dict[str, float] = {}
    for word in given:
        name, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name.strip() or not math.isfinite(value):
            raise InputError(f"--strength {word}: write NAME=VALUE with a number, as style=0.5")
        if name.strip() in found:
            raise InputError(f"--strength {name.strip()} is given twice")
        found[name.strip()] = value
    return found


def read_preset(
    name: str | None,
    added: Sequence[str],
    changes: Sequence[str],
    person: Personalization | None,
    base: str | None,
) -> Preset:
    """Return the preset ``name`` with the techniques of ``--with`` behind it and ``--set`` applied.

    Raises
    ------
    PcsError
        No such preset, technique or setting; something wrong in its file.
    """
    from pcs_core.assembly import load_preset
    from pcs_core.data import Preset

    if name is None and not added:
        if changes:
            raise InputError(f"--set {changes[0]}: it changes what --preset and --with add")
        return Preset("none")
    backbone = person.backbone.id if person else base
    return load_preset(name, backbone=backbone, techniques=added, overrides=changes)


def described_preset(
    preset: Preset, backbone: Backbone, person: Personalization | None
) -> dict[str, Any]:
    """Return what ``sample.json`` says of a preset, and what its quality gate found out."""
    from pcs_cli.verdicts import read_verdict

    system = person.recipe.id if person else "base"
    verdict = read_verdict(preset, backbone.card, system)
    facts = preset.facts()
    if verdict is not None:
        facts["verdict"] = verdict
        word = "passed" if verdict["passed"] else "FAILED"
        facts["note"] = f"preset {preset.id!r} {word} its gate: {verdict['summary']}"
    elif preset.path:
        facts["note"] = (
            f"preset {preset.id!r} was not checked for {system} on this backbone: "
            f"pcs preset check {preset.id} ARTIFACT"
        )
    return facts


def described(layout: Layout | None, strengths: dict[str, float]) -> dict[str, Any]:
    """Return what ``sample.json`` says of a layout and of strengths, where there are any."""
    facts: dict[str, Any] = {}
    if layout is not None:
        boxes = [{"phrase": b.phrase, "box": list(b.box), "prompt": b.prompt} for b in layout.boxes]
        facts["layout"] = {"boxes": boxes, "points": [list(p) for p in layout.points]}
    if strengths:
        facts["strengths"] = strengths
    return facts


def open_for_sampling(
    person: Personalization | None, base: str | None, backbone: str | None, device: str
) -> Backbone:
    """Open the backbone to draw with."""
    from pcs_cli.opening import backbone_name, device_name, open_for
    from pcs_core.engine import open_backbone

    if person is not None:
        return open_for(person, backbone, device)
    return open_backbone(backbone_name(base or "mini"), device=device_name(device))


def read_options(engine: str | None, given: Sequence[str]) -> dict[str, Any]:
    """Return the options of an engine from words ``KEY=VALUE``.

    Raises
    ------
    InputError, UnknownNameError
        No engine that has options, no such option, or another type than its default.
    """
    from pcs_cli.merge import read_settings
    from pcs_core.catalogue import catalogue
    from pcs_core.engine.opening import runs_deployments

    if not given:
        return {}
    if engine is None:
        raise InputError(f"--option {given[0]}: name its engine with --engine")
    noun = "loaders" if runs_deployments(engine) else "engines"
    found = catalogue().get(noun, engine)
    return read_settings(given, engine, found, option="--option", given=("id", "device", "dtype"))


def open_deployed(
    person: Personalization | None,
    folder: Path | None,
    engine: str | None,
    device: str,
    options: dict[str, Any],
) -> Backbone:
    """Open a deployment to draw with; it must be of the backbone that ``person`` was made on."""
    from pcs_cli.opening import device_name
    from pcs_core.engine.opening import open_deployment, resolve_backbone

    where = None if folder is None else folder.expanduser()
    opened = open_deployment(where, engine, device=device_name(device), **options)
    return resolve_backbone(opened, person)


def describe(
    person: Personalization | None,
    artifact: Path | None,
    backbone: Backbone,
    prompt: str,
    seed: int,
    count: int,
    settings: Any,
) -> dict[str, Any]:
    """Return what ``sample.json`` holds: all that is needed to draw these pictures again."""
    from pcs_core.storage.versions import versions

    card = backbone.card
    drawn: dict[str, Any] = {
        "prompt": prompt,
        "seed": seed,
        "count": count,
        "settings": {
            "steps": settings.steps,
            "scale": settings.scale,
            "scheduler": settings.scheduler,
            "negative": settings.negative,
        },
        "backbone": {"id": card.id, "hash": card.hash, "size": list(card.size)},
        "artifact": None,
        "pictures": [{"file": picture_name(index), "seed": seed + index} for index in range(count)],
        "versions": versions(),
    }
    if person is not None:
        drawn["artifact"] = {
            "path": str(artifact),
            "subject": person.subject,
            "tokens": [concept.token for concept in person.concepts],
            "recipe": person.recipe.id,
            "recipe_hash": person.recipe.hash,
            "seed": person.seed,
        }
    return drawn


def write(target: Destination, pictures: Tensor, facts: dict[str, Any]) -> None:
    """Write the pictures, their sheet and ``sample.json`` as one folder.

    Raises
    ------
    InputError
        A picture holds nan, or the disk is full.
    """
    import json

    from pcs_core import clip_files
    from pcs_folders.pictures import frame_sheet, sheet, write_png

    columns, sheets = COLUMNS, list(pictures)
    with target.filling() as ready:
        ready.mkdir()
        if pictures.dim() == 5:
            for index, clip in enumerate(pictures):
                clip_files.write(clip, ready / f"{index:03d}")
            sheets, columns = [frame_sheet(clip) for clip in pictures], 1
        for index, picture in enumerate(sheets):
            write_png(picture, ready / picture_name(index))
        write_png(sheet(sheets, columns), ready / "sheet.png")
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (ready / "sample.json").write_text(text + "\n", encoding="utf-8")


def clip_facts(count: int, frames: int) -> dict[str, Any]:
    """Return what ``sample.json`` says of clips: their files, and why they are GIFs if they are."""
    from pcs_core import clip_files

    facts: dict[str, Any] = {
        "files": [f"{index:03d}{clip_files.suffix()}" for index in range(count)],
        "frames": frames,
        "frames_per_second": clip_files.frames_per_second,
    }
    if clip_files.suffix() == ".gif":
        facts["note"] = "no video encoder is installed (pip install av): written as GIF"
    return facts


def picture_name(index: int) -> str:
    """Return the file name of picture ``index``: ``000.png``."""
    return f"{index:03d}.png"
