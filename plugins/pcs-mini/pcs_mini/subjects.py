"""Render the shipped reference folders from ``world/subjects.toml``."""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pcs_mini.world.atlas import index
from pcs_mini.world.compose import compose
from pcs_mini.world.roster import roster

SUBJECTS_FILE = Path(__file__).parent / "world" / "subjects.toml"
SUBJECT_PX = 128


def subject_table() -> dict[str, dict[str, Any]]:
    """Name -> noun, style, kind, places and whether masks are written."""
    return tomllib.loads(SUBJECTS_FILE.read_text(encoding="utf-8"))


def render_subjects(out: Path, report: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Write every reference folder under `out`; the same bytes each time."""
    people, sets = roster(), index()["sets"]
    folders = []
    for name, about in subject_table().items():
        noun, style = about["noun"], about["style"]
        if people.is_trained(noun, style):
            raise ValueError(
                f"{SUBJECTS_FILE.name}: {name} shows a trained drawing, {style} {noun}"
            )
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for i, place in enumerate(about["places"], 1):
            image, mask = compose(rng, noun, style, place, size=SUBJECT_PX, scales=(0.58, 0.86))
            Image.fromarray(image).save(folder / f"{i:02d}.png", optimize=True)
            if about.get("masks", False):
                Image.fromarray(mask).save(folder / f"{i:02d}.mask.png", optimize=True)
        (folder / "subject.toml").write_text(
            "[[concept]]\n"
            f'name = "{name}"\ntoken = "<{name.replace("_", "-")}>"\n'
            f'noun = "{noun}"\nkind = "{about["kind"]}"\n',
            encoding="utf-8",
        )
        source = sets[people.all_styles[style]]
        (folder / "LICENSE").write_text(
            f"The {noun} is drawn by {source['package']} {source['version']} "
            f"({source['licence']}); place and composition are by pcs-mini.\n",
            encoding="utf-8",
        )
        report(f"{name}: {len(about['places'])} pictures")
        folders.append(folder)
    return folders
