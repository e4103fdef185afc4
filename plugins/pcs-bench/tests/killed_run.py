"""Run as a script: a small benchmark in worker processes, for tests that kill it.

    python killed_run.py FOLDER WORKERS [DIES]

Worker processes import this file again, so the suite and the metrics it puts in place are theirs too.
With DIES, a worker that fits textual-inversion dies: the first time ("once") or each time ("always").
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pcs_bench.metrics
import pcs_bench.suites
from pcs_bench.run import sources
from pcs_bench.run.conduct import run_bench
from pcs_bench.run.plan import Protocol
from pcs_testing import make_subject

FOLDER, WORKERS = Path(sys.argv[1]), int(sys.argv[2])
DIES = sys.argv[3] if len(sys.argv) > 3 else ""


def subject(name: str, seed: int) -> SimpleNamespace:
    """Return a subject of noise."""
    return SimpleNamespace(
        name=name, folder=lambda: make_subject(name, seed=seed), noun="dog", token="<fido>"
    )


SUITE = SimpleNamespace(
    id="made",
    kind="object",
    stands_for="nothing",
    subjects=(subject("fido", 1), subject("rex", 2)),
    prompts=tuple(
        SimpleNamespace(text=f"a photo of {{token}} {place}", kind="place")
        for place in ("on a beach", "at night")
    ),
)


class Brightness:
    """The mean of a picture; takes its time, so that a kill finds something to interrupt."""

    id, title, paper, better, needs, per = "brightness", "Brightness", "", "higher", (), "picture"

    def score(self, pictures: Any, **_: Any) -> Any:
        """Return the means [n]."""
        time.sleep(0.2)
        return pictures.mean((1, 2, 3))


pcs_bench.suites.load = lambda id: SUITE
pcs_bench.metrics.get = lambda id: Brightness()

if DIES:
    fit = sources.Fitted._fit

    def dying(self: Any, folder: Path) -> Any:
        """Fit, or die as by a lack of memory."""
        mark = FOLDER / "died"
        if self.job.system == "textual-inversion" and (DIES == "always" or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), 9)
        return fit(self, folder)

    sources.Fitted._fit = dying


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcome = run_bench(
        Protocol(
            suite="made",
            systems=("lora-dreambooth", "textual-inversion", "copy"),
            subjects=("fido", "rex"),
            seeds=2,
            backbone="tiny",
            settings=(
                "lora-dreambooth:tune.steps=2",
                "textual-inversion:token.steps=2",
                "sample.steps=2",
            ),
            metrics=("brightness",),
        ),
        FOLDER,
        workers=WORKERS,
    )
    sys.exit(outcome.exit_code)
