"""Protect a shipped subject, personalise with the copies as with the originals, and print what is left of it.

    python scripts/protection.py [--subject dog_pug] [--systems lora-dreambooth,...] [--safe DIR]

Rows are systems; columns are what they were fitted on: the clean pictures, the protected ones, and the
protected ones after a JPEG file of quality 75 and after a resize to three quarters and back. Numbers
are the similarity of drawn pictures to the clean references (and the share that stand in the right place).
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

BACKBONE = "mini"
SYSTEMS = ("dreambooth", "lora-dreambooth", "textual-inversion")
PLACES = ("beach", "grass", "night", "red", "blue", "snow")
SEED = 7


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", default="dog_pug")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--safe", type=Path, help="a folder of `pcs protect`, made if not given")
    parser.add_argument("--count", type=int, default=2, help="pictures a place")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        safe = arguments.safe or protect(arguments.subject, Path(folder) / "safe")
        table = measure(arguments.subject, safe, arguments.systems.split(","), arguments.count)
    columns = list(next(iter(table.values())))
    print("| system | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for system, row in table.items():
        cells = [f"{similarity:.3f} ({place:.2f})" for similarity, place in row.values()]
        print(f"| {system} | " + " | ".join(cells) + " |")


def protect(name: str, out: Path) -> Path:
    """Write protected copies of a shipped subject."""
    from pcs_core.catalogue import catalogue
    from pcs_core.cli.main import main as pcs

    folder = catalogue().get("datasets", "mini.subjects")()[name]
    if pcs(["protect", str(folder), "--out", str(out), "--backbone", BACKBONE]):
        raise SystemExit("pcs protect failed")
    return out


def measure(
    name: str, safe: Path, systems: list[str], count: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return similarity and place accuracy by system and by what it was fitted on."""
    import torch
    from PIL import Image

    from pcs_core import fit, load_recipe, load_subject, open_backbone, sample
    from pcs_core.catalogue import catalogue
    from pcs_core.engine.prepare import fit_image

    subject = load_subject(catalogue().get("datasets", "mini.subjects")()[name])
    scorer = catalogue().get("feature_models", "mini.clip")()
    judge = catalogue().get("feature_models", "mini.judge")()
    phrases = catalogue().get("datasets", "mini.places")()
    copies = [Image.open(safe / f"{Path(f).stem}.png").convert("RGB") for f in subject.files]
    ways: dict[str, Callable[[Any], Any]] = {"protected": same, "JPEG 75": jpeg, "resized": resized}
    variants = [replace(subject, name="clean")]
    for way, change in ways.items():
        images = tuple(tensor(change(copy)) for copy in copies)
        variants.append(replace(subject, name=way.replace(" ", "-"), images=images))
    backbone = open_backbone(BACKBONE)
    references = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
    places = [place for place in PLACES for _ in range(count)]
    prompts = [f"a picture of {subject.concept.token} {phrases[place]}" for place in PLACES]
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for system in systems:
        for person in fit(load_recipe(system, backbone=BACKBONE), variants, backbone, seed=SEED):
            drawn = sample(person, backbone, prompts, count=count, seed=SEED)
            found = (
                float(scorer.subject_similarity(drawn, references)),
                float(judge.place_accuracy(drawn, places)),
            )
            table.setdefault(system, {})[person.subject] = found
            print(system, person.subject, found, file=sys.stderr, flush=True)
    return table


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
