"""docs/commands.md: every command with its arguments and options, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pages.tree import escape, row


def commands_page() -> str:
    """Return docs/commands.md."""
    from typer.main import get_command

    from pcs_cli.app import app

    text = "# Commands\n\nEvery command of `pcs` with its arguments and options, as `--help` prints them. "
    text += "Exit codes: 0 done; 1 a check that does not hold, or an internal error; 2 bad input; 3 finished, "
    text += (
        "with failed rows; 130 interrupted. `PCS_TRACEBACK=1` shows where an error comes from.\n"
    )
    for context in walk(get_command(app), None, "pcs"):
        text += section(context)
    return text


def walk(command: Any, parent: Any, name: str) -> Iterator[Any]:
    """Yield the context of each command below ``command``; groups themselves are skipped."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    if not hasattr(command, "list_commands"):
        yield context
        return
    for child in command.list_commands(context):
        yield from walk(loaded(command, context, child), context, child)


def loaded(group: Any, context: Any, name: str) -> Any:
    """Return a command of a group; one of a plugin is imported."""
    _, command, _ = group.resolve_command(context, [name])
    return command


def section(context: Any) -> str:
    """Return a command's heading, usage, words and table of options."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = f"\n## {context.command_path}\n\n```\n{usage}\n```\n\n{prose(command.help)}\n"
    lines = [line for p in command.get_params(context) if (line := parameter(p, context))]
    if lines:
        text += "\n| argument or option | meaning |\n|---|---|\n" + "".join(lines)
    return text


def parameter(param: Any, context: Any) -> str:
    """Return the line of an argument or option; nothing for ``--help``."""
    record = param.get_help_record(context)
    if record is None or "--help" in param.opts:
        return ""
    names, words = record
    return row(f"`{' '.join(names.split())}`", prose(" ".join(words.split())))


def prose(text: str | None) -> str:
    """Return help text as Markdown: one line a paragraph, nothing that reads as a tag."""
    paragraphs = [" ".join(p.split()) for p in (text or "").replace("\b", "").split("\n\n")]
    return escape("\n\n".join(paragraphs))
