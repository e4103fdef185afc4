"""A command is told as it must be typed to run again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from pcs_cli.command_line import command_line


def retyped(*words: str) -> list[str]:
    app, lines = typer.Typer(), []

    @app.command()
    def fit(
        context: typer.Context,
        system: str,
        folders: list[Path],
        settings: Annotated[list[str] | None, typer.Option("--set")] = None,
        seed: Annotated[int, typer.Option("--seed")] = 0,
        resume: Annotated[bool, typer.Option("--resume")] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
        preview: Annotated[bool, typer.Option("--preview/--no-preview")] = True,
    ) -> None:
        lines.append(command_line(context, "--resume"))

    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return shlex.split(lines[0])


def test_what_is_at_its_default_is_left_out() -> None:
    assert retyped("lora", "my dog") == ["pcs", "fit", "lora", "my dog", "--resume"]


def test_everything_else_stands_there_again() -> None:
    words = ["lora", "a", "b", "--set", "x.lr=1e-4", "--set", "y.rank=2", "--seed", "3"]
    again = retyped(*words, "--overwrite", "--no-preview", "--resume")
    assert again == ["pcs", "fit", *words, "--overwrite", "--no-preview", "--resume"]
