"""``pcs fit --keep-every``: artifacts along the way, in ``DIR.partial/steps/`` until DIR is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_cli.output import notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe

STEPS = "steps"
"""The folder of an artifact that holds those along the way, as ``000100``: after 100 steps."""
BYTES = 4
"""Of a stored number: what trains is kept in full precision."""


def count_kept(recipe: Recipe, every: int) -> int:
    """Return how many artifacts are kept along the way; the last step's is the result itself.

    Raises
    ------
    InputError
        None: the fit is shorter.
    """
    total = sum(p.steps for p in recipe.phases if not p.pretrain) * recipe.cycles
    count = max(0, total - 1) // every
    if not count:
        raise InputError(f"--keep-every {every} keeps nothing: the fit has {total} steps")
    return count


def kept_line(recipe: Recipe, backbone: Backbone, every: int, subjects: int) -> str:
    """Return what a plan says of the artifacts along the way: how many, and how much of the disk."""
    from pcs_cli.edits import overview

    count = count_kept(recipe, every) * subjects
    try:
        size = sum(row.numbers for row in overview(recipe, backbone)) * BYTES
    except Exception:  # a technique that must see the pictures first
        return f"keeps {count} artifacts along the way, in {STEPS}/; their size is known in the fit"
    return (
        f"keeps {count} artifacts along the way, in {STEPS}/: {megabytes(size)} each, "
        f"{megabytes(size * count)} in all"
    )


def megabytes(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def keeping(folder: Path, *, alone: bool) -> Callable[[int, Sequence[Personalization]], None]:
    """Return what writes the subjects of this moment, each whole or not at all, to ``folder``.

    A subject is ``alone`` in it, or has a folder of its name. Numbers that are not finite are not kept.
    """
    from pcs_core.storage import save

    def write(done: int, artifacts: Sequence[Personalization]) -> None:
        for artifact in artifacts:
            if not all(bool(t.isfinite().all()) for t in artifact.tensors.values()):
                notice(f"step {done} of {artifact.subject!r} is not kept: it is not finite")
                continue
            place = folder if alone else folder / artifact.subject
            save(artifact, place / f"{done:06}", overwrite=True)

    return write


def copy_kept(folder: Path, result: Path) -> None:
    """Put what was kept in ``folder`` into the artifact ``result``, without taking it away.

    If the command dies before the result has its name, it is made anew from what is in ``folder``.
    """
    if folder.is_dir():
        shutil.copytree(
            folder, result / STEPS, copy_function=_link, ignore=shutil.ignore_patterns(".*")
        )


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place)  # the same bytes, once on the disk
    except OSError:  # a file system without links
        shutil.copy2(source, place)
