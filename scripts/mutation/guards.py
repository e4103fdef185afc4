"""Run what guards one technique, stage by stage, and stop where it fails: a mutant is tried by this.

    python scripts/mutation/guards.py TECHNIQUE

The stages are derived: the tests of the technique's distribution that name its id or its module, what the docs
promise of its settings, the contract on it, and the claims of the systems that use it with the fewest other
uses. Exit status 0: a mutant survives.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "scripts") not in sys.path:
    sys.path.insert(0, str(ROOT / "scripts"))

CONTRACT = "tests/contract/test_every_technique.py::test_contract"
DOCUMENTED = "tests/contract/test_documented.py::test_settings_are_those_that_are_documented"
CHECK = "tests/systems/test_defining_checks.py::test_holds"
SYSTEMS = 2
"""Systems of a technique whose claims are run."""
PYTEST = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--no-header")


def stages(technique: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each stage and what pytest is told."""
    from pages.cost import technique_files

    named = tuple(str(path.relative_to(ROOT)) for path in list(technique_files(technique))[1:])
    if named:
        yield "unit tests", named
    yield "documented settings", (f"{DOCUMENTED}[{technique}]",)
    yield "contract", (CONTRACT, "-k", technique)
    for system in systems_of(technique)[:SYSTEMS]:
        yield f"check of {system}", (f"{CHECK}[{system}]",)


def systems_of(technique: str) -> list[str]:
    """Return the systems that use ``technique``, those with the fewest uses first."""
    from pcs_core.assembly import load_recipe
    from pcs_core.catalogue import catalogue

    ranked = []
    for system in sorted(catalogue().recipe_files()):
        uses = [use.technique.id for use in load_recipe(system).uses]
        if technique in uses:
            ranked.append((len(uses), system))
    return [system for _, system in sorted(ranked)]


def run(technique: str) -> int:
    """Run the stages one after the other, each in a fork of this process; return 1 where one fails, else 0.

    What this process has imported is there already: a run spends its time on tests, not on loading libraries.
    """
    try:
        for name, selection in stages(technique):
            if status := in_fork(selection):
                print(f"stopped by: {name} (exit status {status})", flush=True)
                return 1
    except Exception as error:  # a mutant that does not even load
        print(f"stopped by: loading ({error})", flush=True)
        return 1
    return 0


def in_fork(selection: tuple[str, ...]) -> int:
    """Run pytest on ``selection`` in a fork and return its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 70
        try:
            import pytest

            status = int(pytest.main([*PYTEST, *selection]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Run the stages of the technique that is named."""
    os.chdir(ROOT)
    return run(sys.argv[1])


if __name__ == "__main__":
    raise SystemExit(main())
