"""Both sides as commands of their own, in turns: a step is the difference of a long run and a short one."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.rounds import Timing, interleaved

from training.models import SIDES, forward_gflop, write_model, write_pictures
from training.tasks import TASKS, Task, ours, queue

ONE, TOGETHER = "one by one", "together"


class CommandFailed(Exception):
    """A side that did not end well; its last words."""


@dataclass
class Ran:
    """What the commands of one side took besides time."""

    job: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Processor seconds of a step, a value per round: other processes on the machine do not count."""
    memory: float = 0.0
    loss: float | None = None


@dataclass
class Settings:
    """How much is run. ``steps`` is the difference of the two runs of each side."""

    model: str
    work: Path
    peers: Path | None
    subjects: tuple[int, ...]
    steps: int
    rounds: int
    seed: int
    tasks: tuple[str, ...]
    tell: Callable[[str], None]


def run(settings: Settings) -> dict[str, Any]:
    """Return the rows of all tasks, and what was left out."""
    work = settings.work
    shutil.rmtree(work, ignore_errors=True)
    write_model(settings.model, work / "model")
    side = SIDES[settings.model]
    write_pictures(work / "pictures", max(settings.subjects), side)
    gflop = forward_gflop(work / "model")
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for name in settings.tasks:
        task = TASKS[name]
        for subjects in settings.subjects:
            settings.tell(f"{name}, {subjects} subjects")
            try:
                rows += measured(settings, task, subjects, side, gflop * task.passes * subjects)
            except CommandFailed as error:
                skipped.append({"part": f"{name}, {subjects} subjects", "why": str(error)})
    return {"rows": rows, "skipped": skipped, "forward_gflop": gflop}


def measured(
    settings: Settings, task: Task, subjects: int, side: int, gflop: float
) -> list[dict[str, Any]]:
    """Return a row for each side: seconds of one step of all subjects."""
    commands: dict[str, Callable[[int], tuple[Sequence[str], Path]]] = {}
    count, work = subjects, settings.work

    def fitting(together: int) -> Callable[[int], tuple[Sequence[str], Path]]:
        def command(steps: int) -> tuple[Sequence[str], Path]:
            out = work / "fits"
            path = queue(work, task, count, steps, settings.seed)
            return ours(work, path, out, together), out

        return command

    if settings.peers is not None and (settings.peers / task.script).is_file():
        checkout = settings.peers

        def peer(steps: int) -> tuple[Sequence[str], Path]:
            return task.peer(checkout, work, steps, side, settings.seed), work / f"peer-{task.name}"

        commands["diffusers"] = peer
    commands[ONE] = fitting(1)
    if subjects > 1:
        commands[TOGETHER] = fitting(subjects)
    ran = {name: Ran() for name in commands}
    sides = {
        name: (lambda c=command, n=name: step_seconds(c, settings.steps, ran[n]))
        for name, command in commands.items()
    }
    times = interleaved(sides, settings.rounds, warm=0)
    return table(task, settings.model, subjects, times, ran, gflop)


def step_seconds(
    command: Callable[[int], tuple[Sequence[str], Path]], steps: int, ran: Ran
) -> float:
    """Return what a step takes: starting, loading and encoding are in both runs, and cancel."""
    short, busy = seconds(*command(steps), ran)
    long, busier = seconds(*command(2 * steps), ran)
    ran.job.append(long)
    ran.processor.append((busier - busy) / steps)
    return (long - short) / steps


def seconds(command: Sequence[str], out: Path, ran: Ran) -> tuple[float, float]:
    """Run a command to its end, into a folder that is not there; return seconds, and those of processors.

    Raises
    ------
    CommandFailed
        It failed; says its last line.
    """
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    log = out.with_name(out.name + ".log")
    begun = time.perf_counter()
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        _, status, used = os.wait4(child.pid, 0)
    taken = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text("utf-8", "replace")
    if child.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        raise CommandFailed(f"exit {child.returncode}: {lines[-1][:300] if lines else 'no word'}")
    ran.memory = max(ran.memory, used.ru_maxrss / 1024)
    if losses := re.findall(r"loss=([0-9.e+-]+)", said):
        ran.loss = float(losses[-1].rstrip(","))
    return taken, used.ru_utime + used.ru_stime


def table(
    task: Task,
    model: str,
    subjects: int,
    times: Mapping[str, Timing],
    ran: Mapping[str, Ran],
    gflop: float,
) -> list[dict[str, Any]]:
    """Return a row for each side. The script of a peer trains one subject: of more it is run as often."""
    times_of = {side: subjects if side == "diffusers" else 1 for side in times}
    whole = {side: timing.seconds * times_of[side] for side, timing in times.items()}
    base = next(iter(whole))
    head = f"{task.name}, {subjects}"
    return [
        {
            "name": f"{head}: {side}",
            "model": model,
            "task": task.name,
            "subjects": subjects,
            "seconds": whole[side],
            "spread": times[side].spread,
            "rounds": len(times[side].values),
            "versus": f"{head}: {base}",
            "ratio": whole[base] / whole[side] if whole[side] > 0 else None,
            "processor_seconds": statistics.median(ran[side].processor) * times_of[side],
            "job_seconds": min(ran[side].job),
            "memory_mib": round(ran[side].memory, 1),
            "final_loss": ran[side].loss,
            "gflop": gflop,
        }
        for side in whole
    ]
