"""Train the embedded backbone for a short while and compare with the recorded log, bit for bit.

    python scripts/retraining.py [--images 5000] [--record] [--out DIR]

Runs ``pcs mini train all --images N`` from nothing, on the CPU, with one thread. The log is every line
of the journal but its clock and device, and the sha256 of what was trained; ``--record`` writes it,
otherwise it is compared with the one beside pcs-mini's tests. Sums are taken in another order on processors of
another kind, so equality is promised for the kind and the torch that the log names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "plugins" / "pcs-mini" / "tests" / "retraining.json"
CLOCK = ("time", "images_per_s", "device")
TRAINED = ("autoencoder", "model")


def main() -> None:
    """Train, then record or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--record", action="store_true", help="write the log instead")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--out", type=Path, help="keep the trained parts here")
    arguments = parser.parse_args()
    recorded = None
    if not arguments.record:
        if not arguments.log.exists():
            raise SystemExit(f"no log at {arguments.log}: make it with --record")
        recorded = json.loads(arguments.log.read_text())
    with tempfile.TemporaryDirectory() as folder:
        trained = retrain(arguments.images, arguments.out or Path(folder))
    if recorded is None:
        arguments.log.write_text(json.dumps(trained, indent=1) + "\n")
        print(arguments.log)
        return
    if differ := differences(recorded, trained):
        raise SystemExit("\n".join(differ))
    print(
        f"{len(trained['journal'])} lines and {len(trained['sha256'])} files are equal, bit for bit"
    )


def retrain(images: int, out: Path) -> dict[str, Any]:
    """Train every stage on `images` pictures in the empty folder `out`; the log."""
    command = [sys.executable, "-m", "pcs_cli.main", "mini", "train", "all", "--device", "cpu"]
    command += ["--images", str(images), "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return {"images": images, **machine(), **log_of(out)}


def machine() -> dict[str, str]:
    """What equality depends on."""
    import torch

    from pcs_mini.world.assets import open_assets

    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "world_sha256": open_assets().sha256,
    }


def log_of(out: Path) -> dict[str, Any]:
    """The journal without its clock, and the digest of each trained file."""
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    files = [path for part in TRAINED for path in sorted((out / part).rglob("*.safetensors"))]
    return {
        "journal": [{k: v for k, v in line.items() if k not in CLOCK} for line in lines],
        "sha256": {
            path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }


def differences(recorded: dict[str, Any], trained: dict[str, Any]) -> list[str]:
    """What differs, the first line of the journal that does and every file; empty if nothing."""
    lines = [
        f"{key}: recorded {recorded[key]}, now {trained[key]}"
        for key in recorded
        if key not in ("journal", "sha256") and recorded[key] != trained.get(key)
    ]
    pairs = zip(recorded["journal"], trained["journal"], strict=False)
    first = next(((a, b) for a, b in pairs if a != b), None)
    if first:
        lines.append(f"journal: recorded {first[0]}, now {first[1]}")
    elif len(recorded["journal"]) != len(trained["journal"]):
        lines.append(f"journal: {len(recorded['journal'])} lines, now {len(trained['journal'])}")
    names = sorted(recorded["sha256"].keys() | trained["sha256"].keys())
    lines += [n for n in names if recorded["sha256"].get(n) != trained["sha256"].get(n)]
    return lines


if __name__ == "__main__":
    main()
