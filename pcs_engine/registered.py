"""A use as a run's manager calls it: named in what it returns, and in what goes wrong inside it."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import PcsError, PluginError, distribution_of
from pcs_core.hookspecs import RUN_PROJECT
from pcs_engine.hook_results import complaint

if TYPE_CHECKING:
    from pcs_core.data import Use
    from pcs_engine.run import EngineRun

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class RegisteredUse:
    """Stands in the manager for one use.

    Its attributes are the hooks of ``technique`` under the same names, marks and arguments, so that
    pluggy orders and calls them as it would the technique's own.
    """

    def __init__(self, use: Use, run: EngineRun) -> None:
        self.technique, self.name = use.technique, use.name
        kind: type = type(use.technique)
        for hook in _hooks_of(kind):
            method = getattr(use.technique, hook)
            options = getattr(method, f"{RUN_PROJECT}_impl")
            wraps = options.get("wrapper") or options.get("hookwrapper")
            guard = _guarded_wrapper if wraps else _guarded
            setattr(self, hook, functools.wraps(method)(guard(self, run, hook, method)))

    def failure(self, hook: str, error: Exception) -> Exception:
        """Return what to raise for an ``error`` inside a hook: the plugin's failure, or the error itself."""
        return (
            error if _is_not_its_own(error, self.technique) else self.fault(hook, _described(error))
        )

    def fault(self, hook: str, text: str) -> PluginError:
        """Return the error that says what is wrong with this use's hook."""
        return PluginError(
            f"{distribution_of(type(self.technique).__module__)}: the use {self.name!r} (technique "
            f"{self.technique.id!r}) failed in its hook `{hook}`: {text}"
        )


@lru_cache(maxsize=1024)
def _hooks_of(kind: type) -> tuple[str, ...]:
    """Return the names of a class's methods that are marked as hooks, misspelt ones too."""
    return tuple(
        name
        for name in dir(kind)
        if not name.startswith("__") and hasattr(getattr(kind, name, None), f"{RUN_PROJECT}_impl")
    )


def _is_not_its_own(error: Exception, technique: Any) -> bool:
    """Return whether an error says by itself what to do, or is no plugin's fault."""
    full = isinstance(error, OSError) and error.errno in _NO_SPACE
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    ours = type(technique).__module__.partition(".")[0] == __name__.partition(".")[0]
    return isinstance(error, PcsError) or full or memory or ours


def _described(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _guarded(
    use: RegisteredUse, run: EngineRun, hook: str, method: Callable[..., Any]
) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with run.calling(use.name) as (arguments, journal):
            try:
                result = method(*args)
            except Exception as error:
                raised = use.failure(hook, error)
                if raised is error:
                    raise
                raise raised from error
        if text := complaint(hook, result, arguments):
            raise use.fault(hook, text)
        if result is not None:
            journal[id(result)] = (result, use.name)
        return result

    return call


def _guarded_wrapper(
    use: RegisteredUse, run: EngineRun, hook: str, method: Callable[..., Any]
) -> Callable[..., Any]:
    def call(*args: Any) -> Iterator[Any]:
        arguments = run.arguments
        try:
            result = yield from method(*args)
        except Exception as error:
            raised = use.failure(hook, error)
            if raised is error:
                raise
            raise raised from error
        if text := complaint(hook, result, arguments, wraps=True):
            raise use.fault(hook, text)
        return result

    return call
