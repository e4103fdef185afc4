"""Engines side by side: eager, compile, ONNX Runtime, OpenVINO and INT8, in one run on the machine at hand.

    python scripts/bench_inference.py [--model mini|sd15] [--out docs/benchmarks/inference.json]
                                      [--minutes 7.5] [--parts a,b] [--fresh] [--tiny]

Sides take turns in every round, after warm-up; medians and spreads are of rounds. Writes the JSON and,
beside it, a plot. ``--tiny`` goes through everything on random networks in a minute or two: its numbers
mean nothing. On a machine with CUDA, SD 1.5 and SDXL with an image adapter are timed there too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks" / "inference.json"
MINUTES = {"mini": 7.5, "sd15": 40.0}
WORK = ROOT / "build" / "inference"


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("mini", "sd15"), default="mini")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--minutes", type=float, help="what does not fit is left out (mini 7.5, sd15 40)"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fresh", action="store_true", help="export again")
    parser.add_argument("--tiny", action="store_true", help="rehearse on random tiny networks")
    parser.add_argument(
        "--parts", default="", help="some of pictures,switches,cold,lora,gates,large,devices"
    )
    arguments = parser.parse_args()
    minutes = arguments.minutes or MINUTES[arguments.model]
    if arguments.rounds < 1 or minutes <= 0:
        parser.error("--rounds and --minutes must be above zero")
    logging.getLogger("pcs").setLevel(logging.ERROR)
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched while clocks run
    from inference.measure import PARTS
    from inference.report import write
    from inference.run import run

    parts = [part for part in arguments.parts.split(",") if part]
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--parts {unknown[0]}: known are {', '.join(PARTS)}")
    begun = time.perf_counter()
    measured: dict[str, Any] = run(
        arguments.model,
        work=WORK,
        minutes=minutes,
        rounds=arguments.rounds,
        fresh=arguments.fresh,
        tiny=arguments.tiny,
        tell=tell,
        parts=parts,
    )
    measured["seconds"] = round(time.perf_counter() - begun, 1)
    write(measured, arguments.out)
    tell(f"{arguments.out} and {arguments.out.with_suffix('.svg')}, {measured['seconds']:.0f} s")
    if not measured["rows"]:
        sys.exit(1)
    print(json.dumps({"targets": measured["targets"], "skipped": measured["skipped"]}, indent=1))


def tell(line: str) -> None:
    """Say what is going on."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
