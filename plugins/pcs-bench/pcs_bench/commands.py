"""``pcs bench``: every command of the benchmark, each written in a module of its own."""

from __future__ import annotations

import typer

from pcs_bench import knowledge_commands
from pcs_bench.run import commands as running
from pcs_bench.run import estimate, watch_study

app = typer.Typer(no_args_is_help=True, help="The benchmark: suites, metrics, runs and reports.")


@app.callback()
def bench() -> None:
    """Run, score and report a suite with the protocol pinned."""


app.command()(running.run)
app.command()(running.report)
app.command()(watch_study.watch)
app.command()(estimate.estimate)


knowledge_commands.add(app)
