"""What commands print goes through one function, which writes out what would act on a terminal."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = ("pcs_cli/output.py", "pcs_mini/")
"""The function itself; Mini's own trainings and world, which print numbers and paths that the user gave."""


def printing(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        if function in ("print", "typer.echo", "click.echo", "typer.secho", "sys.stdout.write"):
            yield node.lineno


def test_nothing_is_printed_past_it() -> None:
    files = [
        path
        for place in ("pcs_core", "pcs_engine", "plugins/*/pcs_*", "optimizers/*/pcs_*")
        for folder in ROOT.glob(place)
        for path in folder.rglob("*.py")
    ]
    assert len(files) > 300
    past = [
        f"{path.relative_to(ROOT)}:{line}: use emit or notice of pcs_cli"
        for path in files
        if not any(part in path.as_posix() for part in ALLOWED)
        for line in printing(path)
    ]
    assert not past, "\n".join(past)
