"""The first setting that spares enough memory, for ``pcs memory --have`` and ``pcs fit --have``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.errors import InputError
from pcs_memory.settings import LADDER, Setting, read_memory
from pcs_memory.taken import in_words

if TYPE_CHECKING:
    from pcs_core.data import Recipe
    from pcs_memory.report import Tried

AUTO = "auto"
BESIDE = 10**9
"""Bytes of a card that a fit does not get: the GPU's context, kernels' workspaces, the allocator's reserve."""


def tries(
    recipe: Recipe,
    backbone: str,
    asked: Setting,
    *,
    aside: bool,
    ladder: bool = True,
    size: tuple[int, int] | None = None,
    pictures: int = 5,
    subjects: int = 1,
    count: int = 1,
) -> Iterator[Tried]:
    """Yield what fits take, with the setting that is asked for first and then with those of the ladder.

    ``aside``: there is another memory, in which networks that are not in use may wait (a GPU's host has one).
    """
    for setting in (asked, *(LADDER if ladder else ())):
        if setting is asked or (setting != asked and (aside or not setting.offload)):
            yield _run(recipe, backbone, setting, aside, size, pictures, subjects, count)


def memory_setting(
    recipe: Recipe,
    backbone: str,
    have: str,
    *,
    device: str,
    size: tuple[int, int] | None = None,
    pictures: int = 5,
    subjects: int = 1,
    tell: Callable[[str], None] = lambda line: None,
) -> Setting:
    """Return the first setting with which a fit needs no more than ``have``, as "12GB" or "auto".

    ``auto`` is all of the card ``device`` but 1 GB, whatever else uses it now: so that an interrupted fit,
    which goes on by the same command, chooses as before. ``tell`` is given a line for each setting tried.

    Raises
    ------
    InputError
        No setting spares enough: says which takes least. Or ``have`` is no size, or "auto" without a card.
    """
    there = _of_card(device) if have == AUTO else read_memory(have)
    place = Path(backbone).expanduser()
    name = str(place.resolve()) if place.exists() else backbone
    aside = device != "cpu"
    tried: list[Tried] = []
    for one in tries(
        recipe, name, Setting(), aside=aside, size=size, pictures=pictures, subjects=subjects
    ):
        tell(f"--have {have}: {one.line(there)}")
        if one.fit.peak <= there:
            return one.setting
        tried.append(one)
    least = min(tried, key=lambda one: one.fit.peak)
    raise InputError(
        f"--have {have}: with {least.setting.options} a fit still takes {in_words(least.fit.peak)}: a smaller "
        "--size, fewer rows a step (--set PHASE.batch.ROLE=1) or a smaller backbone may take less"
    )


def _of_card(device: str) -> int:
    import torch

    if not device.startswith("cuda"):
        raise InputError(
            f"--have auto asks a GPU how much memory it has, and the fit is on {device}: say it, as --have 12GB"
        )
    return int(torch.cuda.get_device_properties(device).total_memory) - BESIDE


def _run(
    recipe: Recipe,
    backbone: str,
    setting: Setting,
    aside: bool,
    size: tuple[int, int] | None,
    pictures: int,
    subjects: int,
    count: int,
) -> Tried:
    """Return what a fit with ``setting`` takes, and a drawing after it."""
    import torch

    from pcs_memory.report import Tried
    from pcs_memory.running import Run

    types = {"": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    run = Run(recipe, backbone, dtype=types[setting.quantize], aside=aside, size=size)
    fit = run.fit(
        pictures=pictures,
        subjects=subjects,
        precision=setting.precision,
        checkpointing=setting.checkpointing,
    )
    drawing = run.draw(count)
    if setting.offload:
        fit, drawing = fit.offloaded(), drawing.offloaded()
    return Tried(setting, fit, drawing, read=run.read)
