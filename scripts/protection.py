"""Protect shipped subjects, personalise with the copies as with the originals, and print what is left of them.

    python scripts/protection.py [--protect SYSTEM] [--subjects dog_pug,bus_school] [--systems dreambooth]

Rows are systems; columns are what they were fitted on: the clean pictures, the protected ones, and the
protected ones after a JPEG file of quality 75 and after a resize to three quarters and back. Numbers
are the similarity of drawn pictures to the clean references, the mean over subjects, and for how many of them
it is lower than on the clean ones. All fits of a subject start alike and see the same noise.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

BACKBONE = "mini"
SYSTEMS = ("dreambooth", "lora-dreambooth", "textual-inversion")
PLACES = ("beach", "grass", "night", "red", "blue", "snow")
SUBJECTS = ("dog_pug", "cat_tuxedo", "bus_school", "owl_purple", "mushroom_pink", "bear_teddy")
WAYS = ("clean", "protected", "JPEG 75", "resized")
SEED = 7
"""Of the fits. Pictures are protected at seed 0: fits of that seed on the clean ones are its surrogates."""

Table = dict[str, dict[str, list[float]]]
"""Similarity of each subject by system and by what it was fitted on."""


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--protect", default="anti-dreambooth", help="system that protects")
    parser.add_argument("--ways", default=",".join(WAYS), help="clean first")
    parser.add_argument("--count", type=int, default=4, help="pictures a place")
    parser.add_argument("--seed", type=int, default=SEED, help="of the fits")
    arguments = parser.parse_args()
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.subjects.split(","):
            safe = protect(arguments.protect, name, Path(folder) / name)
            measure(name, safe, arguments, table)
            print("\n".join(lines(table)), flush=True)


def lines(table: Table) -> list[str]:
    """Return the table as Markdown: means over subjects, and in how many a copy scores lower."""
    columns = list(next(iter(table.values())))
    rendered = ["| system | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for system, row in table.items():
        clean = row[columns[0]]
        cells = [f"{fmean(clean):.3f}"]
        for column in columns[1:]:
            lower = sum(a < b for a, b in zip(row[column], clean, strict=True))
            cells.append(f"{fmean(row[column]):.3f} ({lower} of {len(clean)} lower)")
        rendered.append(f"| {system} | " + " | ".join(cells) + " |")
    return rendered


def protect(system: str, name: str, out: Path) -> Path:
    """Write copies of a shipped subject that ``system`` protects."""
    from pcs_cli.main import main as pcs
    from pcs_core.catalogue import catalogue

    folder = catalogue().get("datasets", "mini.subjects")()[name]
    if pcs(["protect", str(folder), "--system", system, "--out", str(out), "--backbone", BACKBONE]):
        raise SystemExit("pcs protect failed")
    return out


def measure(name: str, safe: Path, arguments: argparse.Namespace, table: Table) -> None:
    """Add a subject's similarity by system and by what it was fitted on to ``table``."""
    import torch
    from PIL import Image

    from pcs_core import fit, load_recipe, load_subject, open_backbone, sample
    from pcs_core.catalogue import catalogue
    from pcs_engine.prepare import fit_image

    subject = load_subject(catalogue().get("datasets", "mini.subjects")()[name])
    scorer = catalogue().get("feature_models", "mini.clip")()
    phrases = catalogue().get("datasets", "mini.places")()
    copies = [Image.open(safe / f"{Path(f).stem}.png").convert("RGB") for f in subject.files]
    ways: dict[str, Callable[[Any], Any]] = {"protected": same, "JPEG 75": jpeg, "resized": resized}
    variants = {"clean": subject}
    for way, change in ways.items():
        images = tuple(tensor(change(copy)) for copy in copies)
        variants[way] = replace(subject, images=images)
    variants = {way: variants[way] for way in arguments.ways.split(",")}
    backbone = open_backbone(BACKBONE)
    references = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
    prompts = [f"a picture of {subject.concept.token} {phrases[place]}" for place in PLACES]
    for system in arguments.systems.split(","):
        recipe = load_recipe(system, backbone=BACKBONE)
        for way, variant in variants.items():
            (artifact,) = fit(recipe, variant, backbone, seed=arguments.seed)
            drawn = sample(artifact, backbone, prompts, count=arguments.count, seed=SEED)
            similarity = float(scorer.subject_similarity(drawn, references))
            table.setdefault(system, {}).setdefault(way, []).append(similarity)
            print(system, name, way, round(similarity, 3), file=sys.stderr, flush=True)


def tensor(image: Any) -> Any:
    """Return a picture as [3 h w] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def same(image: Any) -> Any:
    """Return it as it is."""
    return image


def jpeg(image: Any) -> Any:
    """Return it after a JPEG file of quality 75."""
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def resized(image: Any) -> Any:
    """Return it scaled to three quarters and back."""
    small = image.resize((image.width * 3 // 4, image.height * 3 // 4))
    return small.resize(image.size)


if __name__ == "__main__":
    main()
