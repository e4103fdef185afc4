"""Mutate the techniques' files with cosmic-ray and see whether their tests notice.

    python scripts/mutants.py [TECHNIQUE...]      default: every technique

A seeded sample of mutants, at least ``--least`` of each file, is tried by what guards the technique
(`scripts/mutation/guards.py`): its tests, the contract, the claims of systems that use it. Mutants are made in
copies of the tree under build/mutants, one a worker, never in the checkout. What was tried is kept in a session
per technique: an interrupted run goes on, and a file that changed is drawn anew; ``--again`` tries survivors by
the tests as they are now. The report is build/mutants/report.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

from cosmic_ray.commands import init
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult
from mutation.report import Tried, report
from mutation.sample import candidates, draw, shares
from pages.cost import technique_files
from pages.tree import DOCS, ROOT

from pcs_core.catalogue import catalogue

PLACE = ROOT / "build" / "mutants"
GOAL = 0.85
STOPPED = "stopped by: "


def session(id: str) -> Path:
    """Return the file of what was tried of a technique as it is now."""
    digest = hashlib.sha256(module(id).read_bytes()).hexdigest()[:8]
    return PLACE / "sessions" / f"{id}-{digest}.sqlite"


def module(id: str) -> Path:
    """Return the file of a technique."""
    return next(technique_files(id))


def plan(ids: list[str], count: int, least: int, seed: int) -> None:
    """Make the sessions that are missing and mark what is not in the sample as left out."""
    mutations = {}
    for id in ids:
        if not session(id).exists():
            session(id).parent.mkdir(parents=True, exist_ok=True)
            with use_db(str(session(id))) as db:
                init([module(id).relative_to(ROOT)], db, {})
        with use_db(str(session(id)), WorkDB.Mode.open) as db:
            items = [(item.mutations[0], item.job_id) for item in db.work_items]
        mutations[id] = (items, candidates([m for m, _ in items], module(id).read_text("utf-8")))
    share = shares({id: len(kept) for id, (_, kept) in mutations.items()}, count, least)
    for id, (items, kept) in mutations.items():
        drawn = draw(kept, share[id], seed, id)
        chosen = {job for mutation, job in items if mutation in drawn}
        with use_db(str(session(id)), WorkDB.Mode.open) as db:
            known = {job for job, _ in db.results}
            left = [job for _, job in items if job not in chosen | known]
            db.set_multiple_results(left, WorkResult(WorkerOutcome.SKIPPED))


def try_survivors_again(ids: list[str]) -> None:
    """Forget what came of the mutants that survived: the tests are other ones now."""
    for id in ids:
        with use_db(str(session(id)), WorkDB.Mode.open) as db:
            items, results = list(db.work_items), list(db.results)
            survivors = [job for job, r in results if r.test_outcome == TestOutcome.SURVIVED]
            if survivors:
                db.clear()
                db.add_work_items(items)
                for job, result in results:
                    if job not in survivors:
                        db.set_result(job, result)


def copy_tree(number: int) -> Path:
    """Return a fresh copy of what git knows of the checkout."""
    place = PLACE / f"tree-{number}"
    shutil.rmtree(place, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def environment(tree: Path) -> dict[str, str]:
    """Return an environment in which the packages are the copy's, before those that are installed."""
    folders = [tree, *sorted(tree.glob("plugins/*")), *sorted(tree.glob("optimizers/*"))]
    path = os.pathsep.join(str(folder) for folder in folders)
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed, "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def warm_process(tree: Path) -> Iterator[Path]:
    """Start the process that runs guards in ``tree``, yield its socket, end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = Path(folder) / "socket"
        command = [sys.executable, str(tree / "scripts" / "mutation" / "warm.py"), str(place)]
        with subprocess.Popen(command, cwd=tree, env=environment(tree)) as process:
            try:
                while not place.exists():
                    if process.poll() is not None:
                        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
                    time.sleep(0.1)
                yield place
            finally:
                process.terminate()


def try_one(id: str, tree: Path, warm: Path, limit: int) -> str:
    """Run the pending mutants of a technique, ``limit`` at most (0: all); return why not, or "".

    ``warm`` is the socket of the process that runs guards in ``tree``.
    """
    with use_db(str(session(id)), WorkDB.Mode.open) as db:
        pending = [item.job_id for item in db.pending_work_items]
    if not pending:
        return ""
    guards = [sys.executable, str(tree / "scripts" / "mutation" / "ask.py"), str(warm), id]
    began = time.monotonic()
    plain = subprocess.run(
        guards, cwd=tree, env=environment(tree), capture_output=True, text=True, check=False
    )
    if plain.returncode:
        return plain.stdout[-2000:]
    config = tree / "mutants.toml"
    config.write_text(
        "[cosmic-ray]\n"
        f'module-path = "{module(id).relative_to(ROOT)}"\n'
        f"timeout = {60 + 3 * (time.monotonic() - began):.0f}\n"
        f"test-command = '{' '.join(guards)}'\n"
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    store = session(id)
    if limit and len(pending) > limit:  # the rest waits in the session itself
        store = store.with_suffix(".part")
        shutil.copy2(session(id), store)
        with use_db(str(store), WorkDB.Mode.open) as db:
            db.set_multiple_results(pending[limit:], WorkResult(WorkerOutcome.SKIPPED))
    command = [sys.executable, "-m", "cosmic_ray.cli", "exec", str(config), str(store)]
    subprocess.run(command, cwd=tree, env=environment(tree), check=True)
    if store != session(id):
        with use_db(str(store), WorkDB.Mode.open) as part:
            results = dict(part.results)
        with use_db(str(session(id)), WorkDB.Mode.open) as db:
            for job in pending[:limit]:
                db.set_result(job, results[job])
        store.unlink()
    return ""


def run(ids: list[str], jobs: int, limit: int) -> list[str]:
    """Try what is pending, one technique a worker at a time; return those whose guards fail by themselves."""
    waiting: Queue[str] = Queue()
    for id in ids:
        waiting.put(id)
    broken: list[str] = []

    def work(number: int) -> None:
        tree = copy_tree(number)
        with warm_process(tree) as warm:
            while True:
                try:
                    id = waiting.get_nowait()
                except Empty:
                    return
                if said := try_one(id, tree, warm, limit):
                    broken.append(id)
                    print(f"{id}: its guards fail without a mutant:\n{said}", file=sys.stderr)
                print(f"{id}: done, {waiting.qsize()} techniques wait", file=sys.stderr, flush=True)
                write(ids, broken)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))
    return broken


def write(ids: list[str], broken: list[str]) -> float:
    """Write the report of what was tried so far; return the share that was killed."""
    tried, waiting = [], 0
    for id in ids:
        with use_db(str(session(id)), WorkDB.Mode.open) as db:
            results, items = dict(db.results), list(db.work_items)
            waiting += sum(1 for _ in db.pending_work_items)
        for item in items:
            result = results.get(item.job_id)
            if result is None or result.worker_outcome == WorkerOutcome.SKIPPED:
                continue
            mutation = item.mutations[0]
            said = (result.output or "").rpartition(STOPPED)[2].splitlines()
            stage = (said[0] if STOPPED in (result.output or "") else "time or crash") * bool(
                result.is_killed
            )
            file = str(mutation.module_path)
            where = (file, mutation.start_pos[0], mutation.operator_name)
            tried.append(Tried(id, *where, stage, result.diff or ""))
    (PLACE / "report.md").write_text(report(tried, waiting, broken, GOAL), "utf-8")
    return sum(bool(t.stage) for t in tried) / len(tried) if tried else 0.0


def main() -> int:
    """Plan, try, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("techniques", nargs="*", default=catalogue().ids("techniques"))
    parser.add_argument("--count", type=int, default=400, help="mutants in all, at least")
    parser.add_argument("--least", type=int, default=5, help="mutants of each file, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--limit", type=int, default=0, help="mutants a technique this time, at most"
    )
    parser.add_argument(
        "--again", action="store_true", help="try the survivors again, by the tests as they are now"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the report into docs/mutants.md too"
    )
    options = parser.parse_args()
    ids = list(options.techniques)
    plan(ids, options.count, options.least, options.seed)
    if options.again:
        try_survivors_again(ids)
    broken = run(ids, options.jobs, options.limit)
    share = write(ids, broken)
    if options.page:
        shutil.copyfile(PLACE / "report.md", DOCS / "mutants.md")
    print(f"{100 * share:.1f} % killed: {(PLACE / 'report.md').relative_to(ROOT)}")
    return 0 if share >= GOAL and not broken else 1


if __name__ == "__main__":
    raise SystemExit(main())
