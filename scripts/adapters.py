"""Train the pre-trained systems on Mini, measure what they carry over, and put the weights where they ship.

    python scripts/adapters.py                       # all of it: train what is missing, measure, ship
    python scripts/adapters.py train --images 24000  # one step; an interrupted training goes on where it was
    python scripts/adapters.py train measure --backbone FOLDER --out try --steps 20 --subjects 2

Training runs several systems side by side, one core each, with the settings that the recipes have for Mini.
Measuring gives a fitted system pictures of subjects that no training drew, lets it draw them elsewhere, and
compares with further pictures of them: with the adapter, at strength 0, and with another subject's references.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("instantid", "ip-adapter", "fastcomposer")
"""The slowest first, so that the cores are free at about the same time."""


def main() -> None:
    """Do the steps asked for, in their order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", nargs="*", help="train, measure, ship; all three if none is named")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--backbone", default="mini", help="mini, or a folder in its layout")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "adapters")
    parser.add_argument("--images", type=int, help="pictures to train on; default: the recipe's")
    parser.add_argument("--steps", type=int, help="steps, in place of --images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--init", type=Path, help="--out of an earlier training to start from")
    parser.add_argument("--anew", action="store_true", help="throw away what was begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subjects", type=int, default=24, help="held-out subjects to measure on")
    parser.add_argument("--metrics", default="", help="feature models, in place of the usual ones")
    arguments = parser.parse_args()
    steps = arguments.do or ["train", "measure", "ship"]
    if unknown := set(steps) - {"train", "measure", "ship"}:
        parser.error(f"no step {', '.join(sorted(unknown))}: train, measure, ship")
    systems = [s for s in SYSTEMS if s in arguments.systems.split(",")]
    from pretraining.card import ship
    from pretraining.measuring import measure
    from pretraining.training import train_all

    arguments.out.mkdir(parents=True, exist_ok=True)
    if "train" in steps:
        train_all(systems, arguments)
    for system in systems:
        if "measure" in steps:
            measure(system, arguments)
        if "ship" in steps:
            ship(system, arguments)


if __name__ == "__main__":
    main()
