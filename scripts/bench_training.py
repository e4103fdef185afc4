"""Training side by side: diffusers' own scripts, our fits one by one, and many in one forward.

    python scripts/bench_training.py [--model mini|small|tiny] [--peer-scripts PATH] [--subjects 1,4,8,16]
                                     [--steps 100] [--rounds 3] [--tasks a,b] [--out FILE]

Every side is a command of its own, run on one folder of a model, with the same pictures, seed, steps and
precision. Sides take turns in every round. What a step takes is the difference of a run of twice the steps and
one of the steps, over the steps: starting and loading cancel. ``PATH`` is a checkout of huggingface/diffusers;
without it our sides alone are run. Writes the JSON and, beside it, a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks" / "training.json"
WORK = ROOT / "build" / "training"


def main() -> None:
    """Measure, and write what was found."""
    from training.models import SIDES
    from training.run import Settings, run
    from training.tasks import TASKS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(SIDES), default="mini")
    parser.add_argument("--peer-scripts", type=Path, help="a checkout of huggingface/diffusers")
    parser.add_argument("--subjects", default="1,4,8,16")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    tasks = tuple(given.tasks.split(","))
    if unknown := sorted(set(tasks) - set(TASKS)):
        parser.error(f"--tasks {unknown[0]}: known are {', '.join(TASKS)}")
    if given.peer_scripts and not (given.peer_scripts / "examples").is_dir():
        parser.error(f"--peer-scripts {given.peer_scripts}: no checkout of diffusers lies there")
    subjects = tuple(int(number) for number in given.subjects.split(","))
    if min(*subjects, given.steps, given.rounds) < 1:
        parser.error("--subjects, --steps and --rounds must be above zero")
    begun = time.perf_counter()
    settings = Settings(
        given.model,
        WORK,
        given.peer_scripts,
        subjects,
        given.steps,
        given.rounds,
        given.seed,
        tasks,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    measured = run(settings)
    from training.report import write

    write(given.out, measured, given.model, given.peer_scripts, time.perf_counter() - begun)
    print(json.dumps({"rows": len(measured["rows"]), "skipped": measured["skipped"]}, indent=1))
    if not measured["rows"]:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
