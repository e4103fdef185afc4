"""``pcs fit --dry-run``: what would be read, how each file is used, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pcs_cli.output import columns, emit, emit_json

if TYPE_CHECKING:
    from pcs_cli.fit_plan import FitPlan
    from pcs_core.data import Subject
    from pcs_folders.uses import FileUse


SELDOM: dict[str, Any] = {"repeats": 1, "alternatives": []}
"""What is printed of pictures only where one has another value than this."""


def notes(plan: FitPlan) -> list[str]:
    """Return what a fit says before it begins: files left out, or read in a way that may surprise."""
    return [
        f"{subject.name}/{use.line()}"
        for subject, uses in zip(plan.subjects, plan.uses, strict=False)
        for use in uses
        if use.is_said
    ]


def print_dry_run(plan: FitPlan, *, json: bool) -> None:
    """Print the plan to stdout, as text or JSON. Nothing is trained, and nothing made."""
    from pcs_engine.drawn_size import sized

    with sized(plan.backbone, plan.size):
        facts = described(plan)
    if json:
        emit_json(facts)
        return
    height, width = facts["size"]
    emit(f"{facts['system']} on {facts['backbone']}, pictures of {width} x {height} pixels")
    for line in facts["plan"]:
        emit(line)
    for row in facts["subjects"]:
        who = ", ".join(f"{c['token']} ({c['noun']})" for c in row["concepts"]) or "nobody"
        emit(f"\nsubject {row['name']}: {who}")
        # columns that most folders have no use for stand there where they say something
        extra = [
            key for key, usual in SELDOM.items() if any(p[key] != usual for p in row["pictures"])
        ]
        for heads, keys in (
            (
                ["picture", "size", "shows", *extra, "caption"],
                ["file", "size", "shows", *extra, "caption"],
            ),
            (["file", "read as", ""], ["file", "use", "note"]),
        ):
            table = row["pictures"] if "size" in keys else row["files"]
            if table:
                emit(columns(heads, [_cells(entry, keys) for entry in table]) + "\n")
        for line in (*row["unused"], *row["cropped"]):
            emit(line)
    emit(f"nothing was fitted; without --dry-run the result goes to {facts['out']}")


def described(plan: FitPlan) -> dict[str, Any]:
    """Return the plan as JSON-able data."""
    from pcs_cli.fit_memory import memory_line
    from pcs_cli.fit_time import time_lines
    from pcs_engine.cropping import crop_subject
    from pcs_engine.unread import unread_marks

    return {
        "system": plan.recipe.id,
        "backbone": plan.backbone.card.id,
        "size": list(plan.backbone.card.size),
        "out": str(plan.destination.folder),
        "plan": [
            *plan_lines(plan),
            *dropped_lines(plan),
            *technique_lines(plan),
            memory_line(plan),
            *time_lines(plan),
        ],
        "subjects": [
            {
                "name": subject.name,
                "concepts": [
                    {"name": c.name, "token": c.token, "noun": c.noun} for c in subject.concepts
                ],
                "pictures": [_picture(subject, i) for i in range(len(subject.images))],
                "files": [_file(use) for use in (plan.uses[n] if n < len(plan.uses) else ())],
                "unused": list(unread_marks(plan.recipe, subject)),
                "cropped": list(crop_subject(subject, shown_sizes(plan, subject), plan.crop)[1]),
            }
            for n, subject in enumerate(plan.subjects)
        ],
    }


def shown_sizes(plan: FitPlan, subject: Subject) -> Any:
    """Return height and width at which the network is shown all pictures of a subject, or each."""
    from pcs_engine.buckets import picture_sizes

    whole = (plan.backbone.card.size[0], plan.backbone.card.size[1])
    return (picture_sizes(subject, plan.backbone) or whole) if plan.buckets else whole


def plan_lines(plan: FitPlan) -> list[str]:
    """Return what the fit will do that the recipe does not say, a sentence a line."""
    from pcs_cli.fit_keeping import kept_line
    from pcs_cli.fit_start import start_line

    lines = [] if plan.start is None else [start_line(plan.start, plan.recipe)]
    if plan.keep_every:
        lines.append(kept_line(plan.recipe, plan.backbone, plan.keep_every, len(plan.subjects)))
    return [*lines, *plan.said]


def dropped_lines(plan: FitPlan) -> list[str]:
    """Return how many rows are shown without their caption, where some are."""
    share = plan.recipe.caption_dropout
    return (
        [f"{share:g} of the rows are shown without their caption, drawn for each"] if share else []
    )


def technique_lines(plan: FitPlan) -> list[str]:
    """Return what the techniques will do that the recipe does not say; a fit says it when it does it."""
    lines = (
        line
        for subject in plan.subjects
        for use in plan.recipe.uses
        for line in use.technique.plan(subject, plan.backbone.card)
    )
    return list(dict.fromkeys(lines))


def _picture(subject: Subject, index: int) -> dict[str, Any]:
    from pcs_core.data.later import entries_of
    from pcs_engine.shown import shown_concepts

    image = entries_of(subject.images)[index]
    caption = subject.captions[index] if index < len(subject.captions) else None
    return {
        "file": subject.files[index] if index < len(subject.files) else str(index),
        "size": " x ".join(str(n) for n in reversed(image.shape[-2:])),
        "shows": [c.name for c in shown_concepts(subject, index)],
        "caption": caption,
        "alternatives": list(subject.texts(index)[1:]),
        "repeats": subject.repeats[index] if index < len(subject.repeats) else 1,
    }


def _file(use: FileUse) -> dict[str, str]:
    return {"file": use.file, "use": use.use, "note": use.note}


def _cells(entry: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return [
        ", ".join(value) if isinstance(value := entry[key], list) else str(value or "")
        for key in keys
    ]
