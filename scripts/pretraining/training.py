"""Train the systems side by side, a process and a core each."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent.parent / "adapters.py"


def train_all(systems: Sequence[str], arguments: argparse.Namespace) -> None:
    """Train each system in a process of its own, `jobs` at a time; their lines go to ``out/SYSTEM.log``."""
    if len(systems) == 1:
        train(systems[0], arguments)
        return
    waiting, running, failed = list(systems), {}, []
    threads = max(1, (os.cpu_count() or 1) // min(arguments.jobs, len(systems)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    given = [a for a in sys.argv[1:] if a not in ("train", "measure", "ship")]
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            system = waiting.pop(0)
            log = (arguments.out / f"{system}.log").open("a")
            command = [sys.executable, str(SCRIPT), "train", *given, "--systems", system]
            running[system] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            print(f"{system}: training, see {log.name}", file=sys.stderr)
        time.sleep(1)
        for system, process in list(running.items()):
            if process.poll() is not None:
                del running[system]
                if process.returncode:
                    failed.append(system)
                print(f"{system}: {'failed' if process.returncode else 'trained'}", file=sys.stderr)
    if failed:
        raise SystemExit(f"see {', '.join(str(arguments.out / f'{s}.log') for s in failed)}")


def recipe_of(system: str, arguments: argparse.Namespace) -> Any:
    """Return the recipe with the settings for Mini, as long as asked for."""
    from pcs_core import load_recipe

    plain = load_recipe(system, backbone="mini", overrides=arguments.set)
    (phase,) = (p for p in plain.phases if p.pretrain)
    steps = arguments.steps or (
        arguments.images and -(-arguments.images // sum(phase.batch.values()))
    )
    more = [f"{phase.name}.steps={steps}"] if steps else []
    return load_recipe(system, backbone="mini", overrides=[*arguments.set, *more])


def train(system: str, arguments: argparse.Namespace) -> None:
    """Pre-train one system, unless that is done; half precision is what is kept."""
    from pcs_core import installed, load, open_backbone, pretrain, save

    recipe = recipe_of(system, arguments)
    backbone = open_backbone(arguments.backbone)
    out, work = arguments.out / system, arguments.out / f"{system}.partial"
    if (out / "manifest.json").exists() and not arguments.anew:
        finished = load(out)
        if (finished.recipe.hash, finished.backbone.hash) == (recipe.hash, backbone.card.hash):
            return
    if arguments.anew:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    (phase,) = (p for p in recipe.phases if p.pretrain)
    batch = sum(phase.batch.values())
    begun = any(work.glob("fit-*"))
    journal = Journal(arguments.out / f"{system}.jsonl", batch, -1 if begun else 0)
    adapter = pretrain(
        recipe,
        installed().get("datasets", phase.source)(),
        backbone,
        seed=arguments.seed,
        work=work,
        resume=True,
        precision=arguments.precision,
        init=load(arguments.init / system) if arguments.init else None,
        watch=(journal,),
    )
    half = {name: tensor.half() for name, tensor in adapter.tensors.items()}
    parameters = sum(t.numel() for t in half.values())
    facts = {
        **adapter.extra["pretrained"],
        "images": phase.steps * batch,
        "source": phase.source,
        "parameters": parameters,
        "seconds": round(journal.total()),
    }
    save(replace(adapter, tensors=half, extra={"pretrained": facts}), out, overwrite=True)
    shutil.rmtree(work)


class Journal:
    """A line per report: step, losses, pictures a second since the last one.

    ``step`` is where the run begins, -1 where that is not known.
    """

    def __init__(self, file: Path, batch: int, step: int = 0) -> None:
        self.file, self.batch, self.step, self.at = file, batch, step, 0.0

    def __call__(self, progress: Any) -> None:
        """Write the line, here and to the file."""
        seconds = max(1e-6, progress.seconds - self.at)
        images = (progress.index - self.step) * self.batch
        line = {
            "step": progress.index,
            "of": progress.steps,
            "images_per_s": None if self.step < 0 else round(images / seconds, 1),
            **{name: round(value, 4) for name, value in progress.losses.items()},
            "run_s": round(progress.seconds, 1),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        self.step, self.at = progress.index, progress.seconds

    def total(self) -> float:
        """Return the seconds of all runs in the file: a run ends where the next begins anew."""
        times = [json.loads(line)["run_s"] for line in self.file.read_text().splitlines()]
        return sum(a for a, b in zip(times, [*times[1:], 0.0], strict=True) if b < a)
