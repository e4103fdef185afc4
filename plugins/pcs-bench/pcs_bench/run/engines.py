"""Who does the jobs: this process, worker processes, or a Ray cluster."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pcs_bench.run.plan import Job, Protocol
from pcs_bench.run.scoring import one_line
from pcs_bench.run.store import Store
from pcs_bench.run.work import run_job
from pcs_bench.run.workplace import Workplace
from pcs_core.errors import InputError

Known = Mapping[str, Mapping[str, Any]]
TRIES = 2
"""How often a job is begun whose worker dies."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job: a ``line`` of it, or its end (``error`` if it broke off)."""

    job: Job
    line: Mapping[str, Any] | None = None
    error: str = ""
    seconds: float = 0.0


KnownOf = Callable[[Job], Known]


def inline(place: Workplace, jobs: Sequence[Job], known: KnownOf) -> Iterator[Event]:
    """Do the jobs in this process."""
    for job in jobs:
        started = time.monotonic()
        error = ""
        try:
            for line in run_job(place, job, known(job)):
                yield Event(job, line)
        except Exception as broken:
            error = one_line(broken)
        yield Event(job, error=error, seconds=time.monotonic() - started)


@dataclass
class Worker:
    """A process that does one job after another."""

    device: str
    process: Any = None
    pipe: Any = None
    job: Job | None = None
    started: float = 0.0

    def begin(self, arguments: tuple[Any, ...], threads: int) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")  # a forked CUDA or torch pool is no use
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=serve, args=(other, *arguments, self.device, threads), daemon=True
        )
        self.process.start()
        other.close()

    def give(self, job: Job, known: Known) -> None:
        """Hand a job over."""
        self.job, self.started = job, time.monotonic()
        self.pipe.send((job, dict(known)))

    def end(self) -> None:
        """Stop the process."""
        if self.process is not None and self.process.is_alive():
            self.process.terminate()
            self.process.join(5)
            if self.process.is_alive():
                self.process.kill()


@dataclass
class Pool:
    """Worker processes, one per core or device."""

    folder: Path
    protocol: Protocol
    devices: Sequence[str]
    threads: int = 0
    workers: list[Worker] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], known: KnownOf) -> Iterator[Event]:
        """Do the jobs; a worker that dies is replaced, and its job begun once more."""
        waiting: deque[Job] = deque(jobs)
        tries: dict[Job, int] = dict.fromkeys(jobs, 0)
        self.workers = [Worker(device) for device in self.devices[: len(jobs)]]
        try:
            while waiting or any(w.job for w in self.workers):
                for worker in self.workers:
                    if worker.job is None and waiting:
                        if worker.process is None or not worker.process.is_alive():
                            worker.begin((self.folder, self.protocol.document()), self.threads)
                        job = waiting.popleft()
                        tries[job] += 1
                        worker.give(job, known(job))
                busy = {w.pipe: w for w in self.workers if w.job is not None}
                for pipe in wait(list(busy)):
                    yield from self._hear(busy[pipe], waiting, tries)
        finally:
            for worker in self.workers:
                worker.end()

    def _hear(self, worker: Worker, waiting: deque[Job], tries: dict[Job, int]) -> Iterator[Event]:
        job = worker.job
        assert job is not None
        try:
            line, error = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            worker.process, worker.job = None, None
            if tries[job] < TRIES:
                waiting.append(job)
            else:
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                why = f"the worker died twice ({how}): it may lack memory, try fewer --workers"
                yield Event(job, error=why, seconds=time.monotonic() - worker.started)
            return
        if line is not None:
            yield Event(job, line)
            return
        worker.job = None
        yield Event(job, error=error, seconds=time.monotonic() - worker.started)


def serve(
    pipe: Connection, folder: Path, document: Mapping[str, Any], device: str, threads: int
) -> None:
    """Be a worker: do jobs from ``pipe`` until it closes, and do not outlive the process at its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us decides
    parent = os.getppid()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    import torch

    if threads:
        torch.set_num_threads(threads)
    protocol = Protocol.read({**document, "device": device})
    place: Workplace | None = None
    while True:
        try:
            job, known = pipe.recv()
        except EOFError:
            return
        error = ""
        try:
            if place is None:
                place = Workplace(Store(folder), protocol)
            for line in run_job(place, job, known):
                pipe.send((line, ""))
        except BrokenPipeError:
            return
        except Exception as broken:
            error = one_line(broken)
        pipe.send((None, error))


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def need_ray() -> None:
    """Refuse a run on a cluster before anything is made.

    Raises
    ------
    InputError
        Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--engine ray needs Ray: pip install 'pcs-bench[ray]', or leave the option out"
        )


def ray_cluster(
    folder: Path,
    protocol: Protocol,
    jobs: Sequence[Job],
    known: KnownOf,
    *,
    workers: int = 0,
    started: Callable[[int], None] = lambda count: None,
) -> Iterator[Event]:
    """Do the jobs on a Ray cluster: that of ``RAY_ADDRESS``, or one made of this machine.

    ``folder`` must be one that every node sees. At most ``workers`` jobs run at once (0: as many as the
    cluster has cores or devices); ``started`` is told how many. A task whose worker dies is begun again
    by Ray, and finds its pictures in the folder.

    Raises
    ------
    InputError
        No cluster can be reached.
    """
    import ray

    starts_ray = not ray.is_initialized()
    if starts_ray:
        _join_cluster(ray)
    device = "GPU" if protocol.device.startswith("cuda") else "CPU"
    slots = int(ray.cluster_resources().get(device, 1)) or 1
    most = min(workers or slots, slots, len(jobs) or 1)
    started(most)
    options: dict[str, Any] = {"num_gpus": int(device == "GPU"), "max_retries": TRIES}
    task: Any = ray.remote(num_cpus=1, **options)(remote_job)
    waiting = deque(jobs)
    pending: dict[Any, Job] = {}
    try:
        while waiting or pending:
            while waiting and len(pending) < most:
                job = waiting.popleft()
                pending[task.remote(folder, protocol.document(), job, dict(known(job)))] = job
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                lines, seconds, error = ray.get(ready)
            except ray.exceptions.WorkerCrashedError:
                why = f"the worker died {TRIES + 1} times: it may lack memory, try fewer --workers"
                lines, seconds, error = [], 0.0, why
            except Exception as broken:
                lines, seconds, error = [], 0.0, one_line(broken)[:300]
            for line in lines:
                yield Event(job, line)
            yield Event(job, error=error, seconds=seconds)
    finally:
        if starts_ray:
            ray.shutdown()


def _join_cluster(ray: Any) -> None:
    for attempt in range(TRIES):
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
            return
        except Exception as error:  # a plain one, where a busy machine starts its node slowly
            ray.shutdown()
            if attempt + 1 == TRIES:
                where = os.environ.get("RAY_ADDRESS", "this machine")
                why = one_line(error)[:200]
                raise InputError(f"no Ray cluster at {where}: {why}") from error


_PLACES: dict[str, Workplace] = {}


def remote_job(
    folder: Path, document: Mapping[str, Any], job: Job, known: Known
) -> tuple[list[Mapping[str, Any]], float, str]:
    """Do one job on a node; return its lines, seconds, and why it broke off if it did."""
    started = time.monotonic()
    lines: list[Mapping[str, Any]] = []
    error = ""
    try:
        name = repr((str(folder), sorted(document.items())))
        if name not in _PLACES:
            _PLACES.clear()
            _PLACES[name] = Workplace(Store(folder), Protocol.read(document))
        lines.extend(run_job(_PLACES[name], job, known))
    except Exception as broken:
        error = one_line(broken)
    return lines, time.monotonic() - started, error


def devices(device: str, workers: int, jobs: int) -> list[str]:
    """Return a device per worker: one per CUDA device or core where ``workers`` is 0."""
    import torch

    if device == "cuda":
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]
        return [gpus[i % len(gpus)] for i in range(workers or len(gpus))]
    if device.startswith("cuda"):
        return [device] * max(1, workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [device] * (workers or max(1, min(cores or 1, jobs)))
