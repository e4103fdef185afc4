"""Run the systems that no suite of pictures and prompts can measure, through the command line, and keep a look.

    python scripts/showcase.py [--systems a,b] [--out build/showcase]

Video, 3D, layouts, key points and protection: each is a list of commands on shipped subjects. What they
draw goes to ``docs/images/showcase-<system>.jpg``, and that they ran, with recipe and weights, into the
evidence that the status of a system is computed from. What is already there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import evidence_of, write
from results import IMAGES, ROOT

if TYPE_CHECKING:
    from pcs_evidence.evidence import Evidence

SUBJECTS = ROOT / "plugins" / "pcs-mini" / "pcs_mini" / "subjects"
LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "left": {"boxes": [{"phrase": "<dog>", "box": [0.02, 0.35, 0.5, 0.95]}]},
    "right": {"boxes": [{"phrase": "<dog>", "box": [0.5, 0.35, 0.98, 0.95]}]},
    "face": {"points": [[0.36, 0.42], [0.64, 0.42], [0.5, 0.55], [0.4, 0.68], [0.6, 0.68]]},
}


@dataclass(frozen=True)
class Show:
    """Commands of one system; ``{out}``, ``{subjects}`` and ``{layouts}`` are folders.

    Pictures of the sheet are files below ``{out}``.
    """

    commands: Sequence[str]
    sheet: Sequence[str]
    backbone: str = "mini"
    before: Callable[[Path], None] | None = None


def clip(out: Path) -> None:
    """Write a clip: a shipped subject that walks across the picture, in eight frames."""
    from PIL import Image

    source = Image.open(SUBJECTS / "dog_pug" / "01.png").convert("RGB").resize((32, 32))
    frames = []
    for step in range(8):
        frame = Image.new("RGB", (64, 64), (120, 180, 220))
        frame.paste(source, (4 * step, 28))
        frames.append(frame)
    (out / "clip").mkdir(parents=True, exist_ok=True)
    frames[0].save(out / "clip" / "walk.gif", save_all=True, append_images=frames[1:], duration=120)


SHOWS: Mapping[str, Show] = {
    "layout-control": Show(
        (
            "fit layout-control --noun dog --token <dog> --backbone mini --out {out}/fit",
            "sample {out}/fit|a photo of a <dog> on the grass|--layout {layouts}/left.json --out {out}/left",
            "sample {out}/fit|a photo of a <dog> on the grass|--layout {layouts}/right.json --out {out}/right",
        ),
        ("left/sheet.png", "right/sheet.png"),
    ),
    "dreamfusion": Show(
        (
            "fit dreamfusion {subjects}/mushroom_pink --backbone mini --out {out}/fit",
            "render {out}/fit --views 8 --out {out}/views",
        ),
        ("views/sheet.png",),
    ),
    "motiondirector": Show(
        (
            "fit motiondirector {out}/clip --noun walking --token <walk> --backbone tiny-video "
            "--set motion.steps=20 --out {out}/fit",
            "sample {out}/fit|a dog is <walk>|-n 1 --steps 4 --out {out}/drawn",
        ),
        ("drawn/000.png",),
        "tiny-video",
        clip,
    ),
    "anti-dreambooth": Show(
        ("protect {subjects}/dog_pug --noun dog --backbone mini --out {out}/protected",),
        ("protected/*.png",),
    ),
    "instantid": Show(
        (
            "fit instantid {subjects}/person_curly --backbone mini --out {out}/fit",
            "sample {out}/fit|a photo of <person-curly> on a blue background|"
            "--layout {layouts}/face.json -n 4 --out {out}/blue",
            "sample {out}/fit|a photo of <person-curly> on the beach|"
            "--layout {layouts}/face.json -n 4 --out {out}/beach",
        ),
        ("blue/sheet.png", "beach/sheet.png"),
    ),
}


def main() -> None:
    """Run what is missing, and write sheets and evidence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default=",".join(SHOWS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "showcase")
    arguments = parser.parse_args()
    systems = [s for s in arguments.systems.split(",") if s]
    if unknown := sorted(set(systems) - set(SHOWS)):
        parser.error(f"--systems {unknown[0]}: known are {', '.join(SHOWS)}")
    layouts = arguments.out / "layouts"
    layouts.mkdir(parents=True, exist_ok=True)
    for name, layout in LAYOUTS.items():
        (layouts / f"{name}.json").write_text(json.dumps(layout))
    for system in systems:
        write(show(system, arguments.out / system, layouts))


def show(system: str, out: Path, layouts: Path) -> Evidence:
    """Run the commands of a system, write its sheet, and return its evidence."""
    from pcs_core import load_recipe
    from pcs_evidence.evidence import Run

    shown = SHOWS[system]
    if shown.before is not None:
        shown.before(out)
    started = time.monotonic()
    for text in shown.commands:
        head, *rest = text.format(out=out, subjects=SUBJECTS, layouts=layouts).split("|")
        words = [*head.split(), *(rest[:1]), *(rest[1].split() if rest else ())]
        if Path(words[words.index("--out") + 1]).exists():
            continue
        command = [sys.executable, "-m", "pcs_cli.main", *words]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    write_sheet([p for pattern in shown.sheet for p in sorted(out.glob(pattern))], system)
    recipe = load_recipe(system, backbone=shown.backbone)
    run = Run(
        commands=tuple(text.replace("|", " ") for text in shown.commands),
        seconds=round(time.monotonic() - started),
    )
    return evidence_of(system, recipe, shown.backbone).model_copy(update={"run": run})


def write_sheet(files: Sequence[Path], system: str) -> None:
    """Put pictures under each other, or small ones side by side."""
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in files]
    across = all(p.width < 2 * p.height for p in pictures)
    width = (sum if across else max)(p.width for p in pictures)
    height = (max if across else sum)(p.height for p in pictures)
    sheet, at = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        sheet.paste(picture, (at, 0) if across else (0, at))
        at += picture.width if across else picture.height
    sheet.save(IMAGES / f"showcase-{system}.jpg", quality=88)


if __name__ == "__main__":
    main()
