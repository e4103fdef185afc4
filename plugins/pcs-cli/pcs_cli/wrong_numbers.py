"""A number that an option does not take is refused in the words that the Python API has for it."""

from __future__ import annotations

from typing import Any

from pcs_core.errors import InputError


def refuse_number(error: Exception) -> None:
    """Refuse the value that a parser's ``error`` is about, if its option takes a number in bounds.

    Raises
    ------
    InputError
        Names the option and what it takes.
    """
    option: Any = getattr(error, "param", None)
    kind: Any = getattr(option, "type", None)
    # typer keeps the bounds with the option, as click did with its type
    least, most = (getattr(option, n, getattr(kind, n, None)) for n in ("min", "max"))
    if option is None or (least is None and most is None):
        return
    from pcs_engine.given import check_count, check_number

    described = repr(getattr(option, "type_descriptor", kind)).lower()
    whole = "'int'" in described or "intrange" in described
    value = _given(error, int if whole else float)
    if whole:
        check_count(option.name, value, least or 0)
    else:
        check_number(option.name, value, *([] if least is None else [float(least)]))
    what = "whole" if whole else "finite"
    lower = "" if least is None else f"from {least:g} to "
    raise InputError(f"{option.name}={value!r}: give a {what} number, {lower}{most:g}")


def _given(error: Exception, number: type) -> Any:
    """Return the value as a number where it is one, else as the text that was given."""
    cause: Any = error.__cause__
    if hasattr(cause, "errors"):
        text = str(cause.errors()[0]["input"])
    else:
        text = str(getattr(error, "message", error)).partition(" is not ")[0].strip("'")
    try:
        return number(text)
    except ValueError:
        return text
