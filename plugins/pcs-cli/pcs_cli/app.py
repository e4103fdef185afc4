"""The application: the core's own commands, and those of plugins."""

from __future__ import annotations

from typing import Annotated

import typer

import pcs_core
from pcs_cli.check import check
from pcs_cli.doctor import doctor
from pcs_cli.explain import explain
from pcs_cli.export import export
from pcs_cli.fit import fit
from pcs_cli.fit_many import fit_many
from pcs_cli.listings import plugins, systems, techniques
from pcs_cli.merge import merge
from pcs_cli.options import Json
from pcs_cli.output import emit, emit_json
from pcs_cli.plugin_commands import PluginGroup
from pcs_cli.pretrain import pretrain
from pcs_cli.sample import sample
from pcs_cli.sample_many import sample_many
from pcs_cli.show import show

app = typer.Typer(
    name="pcs",
    cls=PluginGroup,
    help="Personalise an image generator with your subject: fit it, then draw it anywhere.",
    epilog="Exit codes: 0 done, 1 a check that does not hold or an internal error, 2 bad input, "
    "3 finished with failed rows, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain text: one line per error, the same on every terminal, and a help that starts fast
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def print_version(requested: bool) -> None:
    """Print the core's version and leave, if ``requested``."""
    if requested:
        emit(f"pcs {pcs_core.__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Handle what stands before a command."""


def version(json: Json = False) -> None:
    """Print the versions of all that matters."""
    from pcs_core.storage.versions import versions

    numbers = versions()
    if json:
        emit_json(numbers)
    else:
        emit("\n".join(f"{name} {number}" for name, number in numbers.items()))


for command in (
    fit,
    fit_many,
    sample,
    sample_many,
    merge,
    export,
    pretrain,
    systems,
    techniques,
    plugins,
    explain,
    show,
    check,
    doctor,
    version,
):
    app.command()(command)
