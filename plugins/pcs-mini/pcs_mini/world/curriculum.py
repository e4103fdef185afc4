"""The stages of a denoiser, and the record of which one the weights in a folder were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_mini.world.assets import Assets
from pcs_mini.world.population import PERSON, Population, core, open_population

RECORD = "curriculum.json"
"""File beside the weights: the stage, and the words of the subjects that were drawn for it."""
FORMER = "lesson.json"
"""Name of that file in folders written by earlier versions; it says "lesson" for the stage."""
CURRICULUM_STYLES = ("glossy", "flat", "rendered")
"""Styles of the later stages; the first has the first of them."""
FEW = 48
"""Things of the first two stages."""
TITLES = (
    "the whole world",
    "a few well-known things in one style",
    "a few well-known things in three styles, and people",
    "the well-known things in three styles, and people",
)


def curriculum_population(population: Population, curriculum: int) -> Population:
    """The part of a population that a young denoiser sees, 0 for the whole.

    Stage 1 is a few well-known things in one style, stage 2 the same in three styles, and people,
    stage 3 all well-known things so. That words decide shapes is learned from few drawings seen
    often; thousands seen once teach colours and places only.
    """
    if curriculum == 0:
        return population
    known = [
        c for c in core() if any(m.concept == c and m.kind == "drawn" for m in population.members)
    ]
    concepts = set(known[:FEW] if curriculum < 3 else known)
    styles = CURRICULUM_STYLES[: 1 if curriculum == 1 else None]
    return Population(
        [
            m
            for m in population.members
            if (m.kind == PERSON and curriculum > 1)
            or (m.kind == "drawn" and m.concept in concepts and m.style in styles)
        ]
    )


def write_record(folder: Path, assets: Assets, curriculum: int) -> Path:
    """Write into `folder` what weights know that were last trained on this stage of the world."""
    record: dict[str, Any] = {
        "stage": curriculum,
        "title": TITLES[curriculum],
        "world_sha256": assets.sha256,
    }
    if curriculum:
        population = curriculum_population(open_population(assets), curriculum)
        drawn = [m for m in population.members if m.kind == "drawn"]
        record["concepts"] = sorted({m.concept for m in drawn})
        record["styles"] = sorted({m.style for m in drawn})
        record["people"] = sorted({m.style for m in population.members if m.kind == PERSON})
    path = folder / RECORD
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def read_record(folder: Path) -> dict[str, Any]:
    """What the weights in `folder` were trained on; the whole world where nothing is said.

    Raises
    ------
    InputError
        If the record cannot be read.
    """
    path = next((folder / name for name in (RECORD, FORMER) if (folder / name).exists()), None)
    if path is None:
        return {"stage": 0, "title": TITLES[0]}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if path.name == FORMER:
            record["stage"] = record.pop("lesson")
        if record["stage"] and not {"concepts", "styles", "people"} <= record.keys():
            raise KeyError("concepts, styles and people")
    except (ValueError, KeyError, TypeError) as broken:
        raise InputError(
            f"{path} does not say which curriculum stage the weights were trained to ({broken}): write it "
            "again with `pcs mini assemble --curriculum`"
        ) from broken
    return record


def known_population(folder: Path, assets: Assets) -> Population:
    """The trained members of an archive that the weights in `folder` were trained on."""
    record, population = read_record(folder), open_population(assets)
    if not record["stage"]:
        return population
    concepts, styles, people = (set(record[k]) for k in ("concepts", "styles", "people"))
    return Population(
        [
            m
            for m in population.members
            if (m.kind == PERSON and m.style in people)
            or (m.kind == "drawn" and m.concept in concepts and m.style in styles)
        ]
    )
