"""Whose edit failed inside the network, read from where an exception came from."""

from __future__ import annotations

from types import TracebackType

import torch
from torch.utils.checkpoint import _StopRecomputationError

from pcs_core.data import Edit
from pcs_core.errors import PcsError, PluginError, distribution_of


def edit_failure(error: Exception) -> PluginError | None:
    """Return the error that names the edit in whose code ``error`` was raised, or None if in none.

    The call itself is not guarded: it stands in graphs that are compiled and exported.
    """
    # torch ends a recomputation by an exception, inside whatever it recomputes
    if isinstance(error, PcsError | torch.OutOfMemoryError | _StopRecomputationError):
        return None
    blamed: tuple[Edit, str] | None = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code, owner = trace.tb_frame.f_code, trace.tb_frame.f_locals.get("self")
        if isinstance(owner, Edit) and code.co_name in type(owner).STAGES:
            blamed = owner, code.co_name
        trace = trace.tb_next
    if blamed is None or type(blamed[0]).__module__.partition(".")[0] == "pcs_core":
        return None
    edit, stage = blamed
    text = " ".join(str(error).split())
    return PluginError(
        f"{distribution_of(type(edit).__module__)}: an edit of the use {edit.owner!r} "
        f"({type(edit).__name__} at {edit.name!r}) failed in its stage `{stage}`: "
        f"{type(error).__name__}: {text}"
    )
