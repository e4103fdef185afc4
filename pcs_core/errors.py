"""Errors that name the thing, the place and the mend.

Every error a user can cause derives from :class:`PcsError`; the CLI prints its message on one
line and exits with its ``exit_code``. Anything else is a bug and shows a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "pcs.plugins"
"""The group in which a distribution names its plugin module."""


class PcsError(Exception):
    """Base of every error with a message meant for the user. ``exit_code`` is the CLI's."""

    exit_code: int = 2


class InputError(PcsError):
    """The user gave something that cannot be used: a file, an argument, a prompt."""


class RecipeError(PcsError):
    """A recipe that does not load: unknown key, wrong type, missing technique."""


class UnknownNameError(PcsError):
    """A system, technique, backbone or setting that does not exist; names the nearest one."""


class NotInstalledError(UnknownNameError):
    """Something known that is not here: ``distribution`` is what to install for it."""

    def __init__(self, message: str, distribution: str) -> None:
        super().__init__(message)
        self.distribution = distribution


class ConflictError(PcsError):
    """Two techniques claim the same thing; the message names both and the place."""


class ArtifactError(PcsError):
    """An artifact that is damaged, newer than this code, or made for another backbone."""


class CapabilityError(PcsError):
    """A technique or scheduler was asked for something that it cannot do."""


class PluginError(PcsError):
    """Code of a plugin failed or broke what a hook promises; names distribution, use, technique, hook."""

    exit_code = 1


def check_utf8(*names: object, what: str = "the name") -> None:
    """Refuse a file's name, or another text, that is not UTF-8, as a folder's out of an old archive.

    Such a name cannot be written into a manifest, nor be printed.

    Raises
    ------
    InputError
        Shows it, its bytes escaped.
    """
    for name in map(str, names):
        try:
            name.encode()
        except UnicodeEncodeError:
            # what Python makes of a byte that is none of UTF-8 is shown as the byte
            bytes_shown = re.sub(
                "[\udc80-\udcff]", lambda one: f"\\x{ord(one[0]) - 0xDC00:02x}", name
            )
            shown = bytes_shown.encode(errors="backslashreplace").decode()
            raise InputError(f"{what} '{shown}' is not UTF-8: rename it") from None


def missing_distribution(error: BaseException | None) -> str:
    """Return what is not installed where that is why ``error`` was raised, else an empty string.

    A distribution of this project, or the module of a third party that does not import.
    """
    while error is not None:
        if isinstance(error, NotInstalledError):
            return error.distribution
        if isinstance(error, ModuleNotFoundError):
            module = (error.name or "").partition(".")[0]
            return "" if module.startswith("pcs_") else module
        error = error.__cause__ or error.__context__
    return ""


def distribution_of(module: str) -> str:
    """Return the name of the plugin that a module comes from, or "module 'x'" where none says so."""
    package = module.partition(".")[0]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        # what an editable installation holds is listed nowhere else
        if entry.value.partition(".")[0] == package and entry.dist is not None:
            return entry.dist.name
    return f"module {module!r}"


def nearest(name: str, known: Iterable[str], *, limit: int = 1) -> str:
    """Return ``", did you mean 'x'?"`` for the closest of ``known``, or an empty string.

    >>> nearest("rnk", ["rank", "alpha"])
    ", did you mean 'rank'?"
    """
    matches = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f", did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""
