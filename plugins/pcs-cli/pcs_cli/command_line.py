"""A command as the user would type it again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer


def command_line(context: typer.Context, *added: str) -> str:
    """Return the command of ``context`` with its words and options, those at their defaults left out.

    ``added`` are options put behind it, such as ``--resume``, which then stand there once.
    """
    words: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        value: Any = context.params.get(parameter.name or "")
        if parameter.param_type_name == "argument":
            values = value if isinstance(value, list | tuple) else [value]
            words += [str(one) for one in values if one is not None]
        elif parameter.opts[0] not in added and value != parameter.get_default(context):
            options += _option(parameter, value)
    return shlex.join(["pcs", str(context.command.name), *words, *options, *added])


def _option(parameter: Any, value: Any) -> list[str]:
    """Return the words of one option."""
    if getattr(parameter, "is_flag", False):
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values if one is not None for word in (parameter.opts[0], str(one))]
