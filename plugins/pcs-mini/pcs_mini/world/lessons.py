"""The lessons of a denoiser, and the record of which one the weights in a folder were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_mini.world.assets import Assets
from pcs_mini.world.cast import PERSON, Cast, core, open_cast

RECORD = "lesson.json"
"""File beside the weights: the lesson, and the words of the subjects that were drawn for it."""
LESSON_STYLES = ("glossy", "flat", "rendered")
"""Styles of the later lessons; the first has the first of them."""
FEW = 48
"""Things of the first two lessons."""
TITLES = (
    "the whole world",
    "a few well-known things in one style",
    "a few well-known things in three styles, and people",
    "the well-known things in three styles, and people",
)


def lesson_cast(cast: Cast, lesson: int) -> Cast:
    """The part of a cast that a young denoiser sees, 0 for the whole.

    Lesson 1 is a few well-known things in one style, lesson 2 the same in three styles, and people,
    lesson 3 all well-known things so. That words decide shapes is learned from few drawings seen
    often; thousands seen once teach colours and places only.
    """
    if lesson == 0:
        return cast
    known = [c for c in core() if any(m.concept == c and m.kind == "drawn" for m in cast.members)]
    wanted = set(known[:FEW] if lesson < 3 else known)
    styles = LESSON_STYLES[: 1 if lesson == 1 else None]
    return Cast(
        [
            m
            for m in cast.members
            if (m.kind == PERSON and lesson > 1)
            or (m.kind == "drawn" and m.concept in wanted and m.style in styles)
        ]
    )


def write_record(folder: Path, assets: Assets, lesson: int) -> Path:
    """Write into `folder` what weights know that were last trained on this lesson of the world."""
    record: dict[str, Any] = {
        "lesson": lesson,
        "title": TITLES[lesson],
        "world_sha256": assets.sha256,
    }
    if lesson:
        cast = lesson_cast(open_cast(assets), lesson)
        drawn = [m for m in cast.members if m.kind == "drawn"]
        record["concepts"] = sorted({m.concept for m in drawn})
        record["styles"] = sorted({m.style for m in drawn})
        record["people"] = sorted({m.style for m in cast.members if m.kind == PERSON})
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
    path = folder / RECORD
    if not path.exists():
        return {"lesson": 0, "title": TITLES[0]}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["lesson"] and not {"concepts", "styles", "people"} <= record.keys():
            raise KeyError("concepts, styles and people")
    except (ValueError, KeyError, TypeError) as broken:
        raise InputError(
            f"{path} says not which lesson the weights know ({broken}): write it again with "
            "`pcs mini assemble --lesson`"
        ) from broken
    return record


def known_cast(folder: Path, assets: Assets) -> Cast:
    """The trained members of an archive that the weights in `folder` were trained on."""
    record, cast = read_record(folder), open_cast(assets)
    if not record["lesson"]:
        return cast
    concepts, styles, people = (set(record[k]) for k in ("concepts", "styles", "people"))
    return Cast(
        [
            m
            for m in cast.members
            if (m.kind == PERSON and m.style in people)
            or (m.kind == "drawn" and m.concept in concepts and m.style in styles)
        ]
    )
