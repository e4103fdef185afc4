"""Try every built system on every family of backbones and keep what came of it in docs/families.json.

    python scripts/families.py [SYSTEM...]      default: every system that has a recipe

Each is fitted for two steps and draws a picture, on the family's small network of random weights (real classes,
real layers): that shows whether the system runs there or by which refusal it does not, and nothing about
pictures. `scripts/docs.py` makes the table of it. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pages.tree import DOCS

from pcs_core import load_recipe, load_subject, open_backbone
from pcs_core.catalogue import catalogue
from pcs_core.errors import PcsError
from pcs_diffusers.tiny import tiny_sd3
from pcs_testing import brief_settings, make_picture
from pcs_testing.whole_run import whole_run

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Subject

FAMILIES = {
    "SD 1.x, 2.x": "tiny",
    "SDXL": "tiny-sdxl",
    "SD 3, 3.5": "tiny-sd3",
    "FLUX.1": "tiny-flux",
    "FLUX.1 Kontext": "tiny-kontext",
    "clips": "tiny-video",
    "AnimateDiff": "tiny-animatediff",
    "masked tokens": "tiny-tokens",
}
"""Each family's heading, and the small network of its classes."""
OUT = DOCS / "families.json"


def subject(folder: Path, *, clips: bool) -> Subject:
    """Write pictures with masks, or a clip, and read them as a subject."""
    from pcs_folders.pictures import write_png

    place = folder / "a" if clips else folder
    place.mkdir(parents=True, exist_ok=True)
    for index in range(5 if clips else 3):
        write_png(make_picture(index, (40, 40)), place / f"{index}.png")
        if not clips:
            inside = torch.zeros(3, 40, 40)
            inside[:, 8:30, 8:30] = 1.0
            write_png(inside, folder / f"{index}.mask.png")
    return load_subject(folder, noun="dog", token="<thing>")


def attempt(system: str, backbone: Backbone, shown: Subject) -> str:
    """Return "" where ``system`` runs on ``backbone``, else the refusal."""
    try:
        plain = load_recipe(system, backbone=backbone)
        changes = brief_settings(plain, steps=2)
        if (
            backbone.card.id == "tiny-tokens"
        ):  # all of its layers are of one size, in the real ones too
            changes = [c for c in changes if not c.startswith("attention.localization_loss.scale=")]
        if backbone.card.family.startswith("flux"):  # the quick stand-in shares self-attention
            changes = [c.replace('"style-aligned"', '"lora-dreambooth"') for c in changes]
        whole_run(load_recipe(system, backbone=backbone, overrides=changes), backbone, shown)
    except PcsError as error:
        return " ".join(str(error).split())
    return ""


def main() -> int:
    """Try, and write what changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="*", default=sorted(catalogue().recipe_files()))
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    options = parser.parse_args()
    systems = options.systems
    known = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    for family in options.family or FAMILIES:
        id = FAMILIES[family]
        # its T5 spells words: captions of a usual length are longer than the 16 letters of its default
        backbone = tiny_sd3(t5_length=64) if id == "tiny-sd3" else open_backbone(id)
        with tempfile.TemporaryDirectory() as folder:
            shown = subject(Path(folder) / "thing", clips=len(backbone.latent_shape) == 4)
            for system in systems:
                known.setdefault(family, {})[system] = (said := attempt(system, backbone, shown))
                print(f"{family}: {system}: {said or 'runs'}", file=sys.stderr, flush=True)
                kept = {name: dict(sorted(known.get(name, {}).items())) for name in FAMILIES}
                OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
