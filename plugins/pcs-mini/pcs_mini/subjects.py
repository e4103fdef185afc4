"""Render the shipped reference folders from ``world/subjects.toml``, always from the shipped slice."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pcs_core.errors import InputError
from pcs_mini.held_out import Picture, Studio
from pcs_mini.world.assets import SLICE_FILE, Assets
from pcs_mini.world.grammar import with_article

SUBJECTS_FILE = Path(__file__).parent / "world" / "subjects.toml"
PICTURES = 5
"""Of a subject of one concept, at as many places."""
ALONE, TOGETHER = 2, 2
"""Of a pair: pictures of each alone, and of both."""
SEED = 3

Shown = tuple[Picture, str, dict[str, Tensor]]
"""A picture, its caption, and the mask of each concept."""


def subject_table() -> dict[str, list[dict[str, Any]]]:
    """Subject -> its concepts: name, members, noun and kind."""
    table = tomllib.loads(SUBJECTS_FILE.read_text(encoding="utf-8"))
    return {name: about["concept"] for name, about in table.items()}


def render_subjects(out: Path, report: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Write every reference folder under `out`; the same bytes each time.

    Raises
    ------
    InputError
        If a subject shows what training draws.
    """
    studio = Studio(Assets(SLICE_FILE))
    held_out = set(studio.names())
    folders = []
    for name, concepts in subject_table().items():
        if trained := {m for c in concepts for m in c["members"]} - held_out:
            raise InputError(
                f"{SUBJECTS_FILE.name}: {name} shows {', '.join(sorted(trained))}, which training "
                "draws: choose held-out members (`pcs mini world sheet --held-out`)"
            )
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        shown = pictures_of(studio, concepts)
        for number, (picture, caption, masks) in enumerate(shown, 1):
            write_picture(folder, f"{number:02d}", picture, caption, masks)
        (folder / "subject.toml").write_text(_toml(concepts), encoding="utf-8")
        (folder / "LICENSE").write_text(_licence(studio, concepts), encoding="utf-8")
        report(f"{name}: {len(shown)} pictures")
        folders.append(folder)
    return folders


def token_of(concept: dict[str, Any]) -> str:
    """The word that prompts use for it, as ``<dog-pug>``."""
    return f"<{concept['name'].replace('_', '-')}>"


def pictures_of(studio: Studio, concepts: Sequence[dict[str, Any]]) -> list[Shown]:
    """The pictures of a subject, with captions that name its tokens and places."""
    if len(concepts) > 1:
        return _pair(studio, concepts)
    (concept,) = concepts
    token = token_of(concept)
    if concept.get("kind") == "style":
        drawn = [studio.references(m, 1, seed=SEED)[0] for m in concept["members"]]
        nouns = [with_article(m.partition("/")[0]) for m in concept["members"]]
        return [
            (p, f"{token} of {noun} {studio.phrase(p.place)}", {})
            for p, noun in zip(drawn, nouns, strict=True)
        ]
    drawn = studio.references(concept["members"][0], PICTURES, seed=SEED)
    return [
        (p, f"a photo of {token} {studio.phrase(p.place)}", {concept["name"]: p.masks[0]})
        for p in drawn
    ]


def _pair(studio: Studio, concepts: Sequence[dict[str, Any]]) -> list[Shown]:
    tokens = [token_of(concept) for concept in concepts]
    members = [concept["members"][0] for concept in concepts]
    shown: list[Shown] = []
    for at, concept in enumerate(concepts):
        for p in studio.references(members[at], ALONE, seed=SEED + 1):
            masks = {c["name"]: torch.zeros_like(p.masks[0]) for c in concepts}
            masks[concept["name"]] = p.masks[0]
            shown.append((p, f"a photo of {tokens[at]} {studio.phrase(p.place)}", masks))
    for number in range(TOGETHER):
        p = studio.picture(members, seed=SEED + number, relation="next to")
        masks = {c["name"]: mask for c, mask in zip(concepts, p.masks, strict=True)}
        text = f"a photo of {tokens[0]} next to {tokens[1]} {studio.phrase(p.place)}"
        shown.append((p, text, masks))
    return shown


def write_picture(
    folder: Path, stem: str, picture: Picture, caption: str, masks: dict[str, Tensor]
) -> None:
    """Write the picture, its caption and, where there are any, its masks and a face's key points."""
    pixels = (picture.image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(folder / f"{stem}.png", optimize=True)
    (folder / f"{stem}.txt").write_text(caption + "\n", encoding="utf-8")
    for name, mask in masks.items():
        kind = "mask" if len(masks) == 1 else f"mask.{name}"
        values = (mask[0] * 255).round().byte().numpy()
        Image.fromarray(values).save(folder / f"{stem}.{kind}.png", optimize=True)
    if (points := next((p for p in picture.points if p is not None), None)) is not None:
        rounded = [[round(value, 4) for value in point] for point in points.tolist()]
        (folder / f"{stem}.json").write_text(
            json.dumps({"points": rounded}) + "\n", encoding="utf-8"
        )


def _toml(concepts: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        "[[concept]]\n"
        f'name = "{c["name"]}"\ntoken = "{token_of(c)}"\n'
        f'noun = "{c["noun"]}"\nkind = "{c.get("kind", "object")}"\n'
        for c in concepts
    )


def _licence(studio: Studio, concepts: Sequence[dict[str, Any]]) -> str:
    members = sorted({m for c in concepts for m in c["members"]})
    sources = sorted({studio.source(m) for m in members})
    return (
        f"{', '.join(members)}: drawn from {'; '.join(sources)}. "
        "Composition and painted places are by pcs-mini; photographed places are named in its slice.md.\n"
    )
