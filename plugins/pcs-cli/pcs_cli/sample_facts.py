"""What ``sample.json`` says of a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.sample_plan import Engine, SamplePlan
    from pcs_core.backbone import Backbone
    from pcs_core.data import Layout, Personalization, Preset, SampleSettings


NUMBERS = ("steps", "scale", "scheduler", "negative")
"""Settings of a drawing that each command may change."""


def numbers_of(settings: SampleSettings) -> dict[str, Any]:
    """Return what a drawing may change of a recipe's settings."""
    return {name: getattr(settings, name) for name in NUMBERS}


def describe(
    plan: SamplePlan, engine: Engine, backbone: Backbone, pictures: Tensor | None
) -> dict[str, Any]:
    """Return what ``sample.json`` holds: all that is needed to draw these pictures again.

    ``pictures`` are None where nothing is drawn yet.
    """
    facts = facts_of_drawing(plan, backbone) | facts_of_conditions(plan.layout, plan.strengths)
    if plan.preset.uses or plan.preset.sample:
        facts["preset"] = facts_of_preset(plan.preset, backbone, plan.personalization)
    if stored_as := getattr(backbone, "stored_as", ""):
        facts["weights"] = stored_as
    if plan.size is not None:
        facts["size"] = list(plan.size)
    if engine.name is not None or engine.deployed:
        facts["engine"] = dict(getattr(backbone, "engine", {}))
    if pictures is not None and pictures.dim() == 5:
        facts["clips"] = facts_of_clips(plan.count, pictures.shape[2])
    return facts


def facts_of_drawing(plan: SamplePlan, backbone: Backbone) -> dict[str, Any]:
    """Return what was drawn, with which numbers, by whom."""
    from pcs_core.storage.versions import versions

    card, personalization = backbone.card, plan.personalization
    drawn: dict[str, Any] = {
        "prompt": plan.prompt,
        "seed": plan.seed,
        "count": plan.count,
        "settings": numbers_of(plan.settings),
        "backbone": {"id": card.id, "hash": card.hash, "size": list(card.size)},
        "artifact": None,
        "pictures": [
            {"file": picture_name(index), "seed": plan.seed + index} for index in range(plan.count)
        ],
        "versions": versions(),
    }
    if personalization is not None:
        parts = personalization.parts or (("", personalization),)
        artifacts = [
            facts_of_artifact(folder, name, part)
            for folder, (name, part) in zip(plan.artifacts, parts, strict=True)
        ]
        drawn["artifact"] = artifacts[0]
        if artifacts[1:]:
            drawn["added"] = artifacts[1:]
    return drawn


def facts_of_artifact(folder: Path, name: str, artifact: Personalization) -> dict[str, Any]:
    """Return what ``sample.json`` says of an artifact; ``name`` stands before its strengths."""
    called = {"name": name.removesuffix(":")} if name else {}
    return {
        **called,
        "path": str(folder),
        "subject": artifact.subject,
        "tokens": [concept.token for concept in artifact.concepts],
        "recipe": artifact.recipe.id,
        "recipe_hash": artifact.recipe.hash,
        "seed": artifact.seed,
    }


def facts_of_preset(
    preset: Preset, backbone: Backbone, personalization: Personalization | None
) -> dict[str, Any]:
    """Return what ``sample.json`` says of a preset, and what its quality gate found out."""
    from pcs_cli.verdicts import read_verdict

    system = personalization.recipe.id if personalization else "base"
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


def facts_of_conditions(layout: Layout | None, strengths: Mapping[str, float]) -> dict[str, Any]:
    """Return what ``sample.json`` says of a layout and of strengths, where there are any."""
    from pcs_cli.fingerprint import pixel_hash

    facts: dict[str, Any] = {}
    if layout is not None:
        boxes = [{"phrase": b.phrase, "box": list(b.box), "prompt": b.prompt} for b in layout.boxes]
        facts["layout"] = {"boxes": boxes, "points": [list(p) for p in layout.points]}
        if layout.picture is not None:
            facts["layout"]["picture"] = pixel_hash(layout.picture)
    if strengths:
        facts["strengths"] = dict(strengths)
    return facts


def facts_of_clips(count: int, frames: int) -> dict[str, Any]:
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
