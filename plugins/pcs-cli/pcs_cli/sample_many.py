"""``pcs sample-many``: pictures of several artifacts, different subjects in one batch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.command_line import command_line
from pcs_cli.options import Device, Json, Out, Overwrite, Seed
from pcs_cli.output import complain, emit, emit_json, notice
from pcs_cli.sample_options import Negative, Provenance, Scale, Scheduler, Steps
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.many.drawing import Subject
    from pcs_core.backbone import Backbone

TOKEN = "{token}"
"""In a prompt: what each artifact calls its subject."""


# long: the options of a command
def sample_many(
    context: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Artifacts of one backbone.", show_default=False),
    ],
    *,
    prompts: Annotated[
        Path,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="A prompt a line; {token} is each artifact's own.",
            show_default=False,
        ),
    ],
    out: Out,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="May stand before the artifacts.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=10_000, help="Pictures of each prompt.")
    ] = 1,
    seed: Seed = 0,
    steps: Steps = None,
    scale: Scale = None,
    scheduler: Scheduler = None,
    negative: Negative = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    provenance: Provenance = True,
    json: Json = False,
) -> None:
    """Draw every prompt of FILE with each artifact, into --out/<its folder's name>/.

    Artifacts whose systems act alike in the network share batches; the pictures are those of `pcs sample` with
    each artifact alone. Each folder appears when its pictures are there; an interruption keeps those that are
    finished.
    """
    from pcs_cli.drawn_pictures import DrawnPictures, drawing_into, origin_texts
    from pcs_cli.many.drawing import Drawing
    from pcs_cli.opening import device_name, open_artifact
    from pcs_cli.output_folder import Destination, destination
    from pcs_cli.progress import reporting
    from pcs_cli.sample_facts import facts_of_artifact
    from pcs_engine import open_backbone
    from pcs_engine.known_backbones import location_of

    names = [folder.resolve().name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two artifacts are called {twice[0]!r}: rename the folder of one")
    lines = read_prompts(prompts)
    target = destination(out, overwrite=overwrite, inputs=[*folders, prompts])
    opened_artifacts = [open_artifact(folder) for folder in folders]
    changes = {"steps": steps, "scale": scale, "scheduler": scheduler, "negative": negative}
    subjects, wrong = subjects_of(folders, opened_artifacts, lines, changes)
    cards = {artifact.backbone.hash: artifact for artifact in opened_artifacts}
    if len(cards) > 1:
        one, other = list(cards.values())[:2]
        wrong.append(
            f"{one.subject!r} was made on backbone {one.backbone.id!r}, {other.subject!r} on "
            f"{other.backbone.id!r}: draw them apart"
        )
    if wrong:
        for why in wrong:
            complain(why)
        raise typer.Exit(2)
    places: list[DrawnPictures] = []
    try:
        with reporting("opening") as reporter, ExitStack() as stack:
            location = location_of(opened_artifacts[0].backbone)
            backbone = open_backbone(location, device=device_name(device))
            places = [
                stack.enter_context(
                    drawing_into(
                        Destination(target.folder / name, overwrite),
                        lambda _: command_line(context, "--overwrite"),
                    )
                )
                for name in names
            ]
            for place, artifact in zip(places, opened_artifacts, strict=True):
                place.texts = origin_texts(artifact, backbone.card) if provenance else {}

            def finished(number: int, pictures: Tensor) -> None:
                place = places[number]
                place.add(pictures)
                if place.count == len(lines) * count:
                    facts = facts_of(subjects[number], backbone, seed, count)
                    facts["artifact"] = facts_of_artifact(
                        folders[number], "", subjects[number].artifact
                    )
                    place.finish(facts)

            drawing = Drawing(
                backbone, subjects, count, seed, finished, notice, (reporter.drawing,)
            )
            drawing.run()
    except KeyboardInterrupt:
        if not places:  # nothing was begun, and nothing said
            raise
        raise typer.Exit(130) from None
    paths = [str(target.folder / name) for name in names]
    if json:
        emit_json({"out": str(target.folder), "batches": drawing.batches, "folders": paths})
    else:
        for path in paths:
            emit(path)


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file, a line each.

    Raises
    ------
    InputError
        It cannot be read, or holds none.
    """
    from pcs_core.small_files import read_text

    lines = [line.strip() for line in read_text(path).splitlines()]
    if not (lines := [line for line in lines if line]):
        raise InputError(f"{path} holds no prompt: write one a line, as 'a photo of {TOKEN}'")
    return lines


def subjects_of(
    folders: list[Path], artifacts: list[Any], lines: list[str], changes: dict[str, Any]
) -> tuple[list[Subject], list[str]]:
    """Return what is drawn of each artifact, and all that is wrong with it."""
    from pcs_cli.many.drawing import Subject
    from pcs_cli.weighed_prompts import check_weights
    from pcs_engine.opening import check_prompts

    said = {key: value for key, value in changes.items() if value is not None}
    subjects, wrong = [], []
    for folder, artifact in zip(folders, artifacts, strict=True):
        tokens = " and ".join(concept.token for concept in artifact.concepts)
        prompts = tuple(line.replace(TOKEN, tokens) for line in lines)
        try:
            check_prompts(prompts, artifact)
            check_weights(prompts, artifact, ())
        except PcsError as error:
            wrong.append(f"{folder}: {error}")
        subjects.append(Subject(artifact, prompts, replace(artifact.recipe.sample, **said)))
    return subjects, wrong


def facts_of(subject: Subject, backbone: Backbone, seed: int, count: int) -> dict[str, Any]:
    """Return what ``sample.json`` says of one artifact's pictures."""
    from pcs_cli.sample_facts import numbers_of, picture_name
    from pcs_core.storage.versions import versions

    card = backbone.card
    texts = [prompt for prompt in subject.prompts for _ in range(count)]
    return {
        "prompts": list(subject.prompts),
        "seed": seed,
        "count": count,
        "settings": numbers_of(subject.settings),
        "backbone": {"id": card.id, "hash": card.hash, "size": list(card.size)},
        "pictures": [
            {"file": picture_name(i), "seed": seed + i, "prompt": text}
            for i, text in enumerate(texts)
        ],
        "versions": versions(),
    }
