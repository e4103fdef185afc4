"""Commands of plugins: listed by name, imported when one of them is used."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from pcs_cli.wrong_numbers import refuse_number
from pcs_core.errors import PcsError


class PluginGroup(TyperGroup):
    """A group that also holds what plugins give the catalogue as ``commands``.

    The core's own commands win over a plugin's of the same name, and need no catalogue to run.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the core's commands, then those of plugins."""
        self._add_stubs()
        return super().list_commands(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that ``args`` begin with; a plugin's is imported here."""
        if args[0] not in self.commands:
            self._add_stubs()
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and getattr(command, "pcs_stub", False):
            command = load(name)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a number that an option of it does not take is refused in plain words."""
        try:
            return super().invoke(ctx)
        except PcsError:
            raise
        except Exception as error:
            refuse_number(error)
            raise

    def _add_stubs(self) -> None:
        from pcs_core.catalogue import catalogue

        known = catalogue()
        for name in known.ids("commands"):
            if name not in self.commands:
                self.commands[name] = stub(name, origin(name))


def origin(name: str) -> str:
    """Return the help line of a plugin's command: whose it is."""
    from pcs_core.catalogue import catalogue

    try:
        return f"Commands of {catalogue().distribution('commands', name)}."
    except PcsError:
        return "Held by two plugins: see `pcs doctor`."


def stub(name: str, help: str) -> Any:
    """Return a command that stands in a listing for one that is not imported."""
    application = typer.Typer(add_completion=False, rich_markup_mode=None)

    @application.command(name=name, help=help)
    def nothing() -> None:
        raise AssertionError("a stub is never run")

    command = typer.main.get_command(application)
    command.name = name
    command.pcs_stub = True  # type: ignore[attr-defined]
    return command


def load(name: str) -> Any:
    """Import a plugin's command: a typer application, or a command of its library.

    Raises
    ------
    PcsError
        It does not import, two plugins hold it, or it is none.
    """
    from pcs_core.catalogue import catalogue

    command = catalogue().get("commands", name)
    if isinstance(command, typer.Typer):
        command = typer.main.get_command(command)
    if not hasattr(command, "make_context"):
        where = catalogue().where("commands", name)
        raise PcsError(f"command {name!r} ({where}) is no typer application")
    command.name = name
    return command
