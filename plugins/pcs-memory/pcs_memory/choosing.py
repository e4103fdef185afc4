"""The first setting that spares enough memory, for ``pcs memory --have`` and ``pcs fit --have``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pcs_core.errors import InputError
from pcs_memory.report import Tried, fit_line
from pcs_memory.settings import LADDER, Setting, read_memory
from pcs_memory.taken import in_words

if TYPE_CHECKING:
    from pcs_core.data import Recipe
    from pcs_memory.running import Run
    from pcs_memory.taken import Taken

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
    for setting in _in_order(asked, aside) if ladder else (asked,):
        run, fit = _fitted(recipe, backbone, setting, aside, size, pictures, subjects)
        drawing = run.draw(count)
        yield Tried(setting, fit, drawing.offloaded() if setting.offload else drawing, run.read)


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
    aside = device != "cpu"
    tried: list[tuple[int, Setting]] = []
    for setting in _in_order(Setting(), aside):
        _, fit = _fitted(recipe, backbone, setting, aside, size, pictures, subjects)
        tell(f"--have {have}: {fit_line(setting, fit.peak, there)}")
        if fit.peak <= there:
            return setting
        tried.append((fit.peak, setting))
    peak, least = min(tried, key=lambda one: one[0])
    raise InputError(
        f"--have {have}: with {least.options} a fit still takes {in_words(peak)}: a smaller "
        "--size, fewer rows a step (--set PHASE.batch.ROLE=1) or a smaller backbone may take less"
    )


def _of_card(device: str) -> int:
    import torch

    if not device.startswith("cuda"):
        raise InputError(
            f"--have auto asks a GPU how much memory it has, and the fit is on {device}: say it, as --have 12GB"
        )
    return int(torch.cuda.get_device_properties(device).total_memory) - BESIDE


def _in_order(asked: Setting, aside: bool) -> Iterator[Setting]:
    """Yield the setting that is asked for, and those of the ladder that there are here."""
    yield asked
    yield from (one for one in LADDER if one != asked and (aside or not one.offload))


def _fitted(
    recipe: Recipe,
    backbone: str,
    setting: Setting,
    aside: bool,
    size: tuple[int, int] | None,
    pictures: int,
    subjects: int,
) -> tuple[Run, Taken]:
    """Return what a fit with ``setting`` takes, and its run, which may draw."""
    import torch

    from pcs_memory.running import Run

    types = {"": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    run = Run(recipe, backbone, dtype=types[setting.quantize], aside=aside, size=size)
    fit = run.fit(
        pictures=pictures,
        subjects=subjects,
        precision=setting.precision,
        checkpointing=setting.checkpointing,
    )
    return run, fit.offloaded() if setting.offload else fit
