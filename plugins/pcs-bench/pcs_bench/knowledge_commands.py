"""``pcs bench suites|metrics|new|validate``: what there is, one's own suite, what can be trusted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pcs_core.errors import PcsError

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def add(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command("suites")(list_suites)
    app.command("metrics")(list_metrics)
    app.command("new")(new)
    app.command("validate")(validate)


def list_suites(as_json: AsJson = False) -> None:
    """List the suites: subjects, prompts, and whether their pictures are here."""
    from pcs_bench import suites

    rows = []
    for id in suites.ids():
        try:
            suite = suites.load(id)
            here = all(path.exists() for s in suite.subjects for path in s.paths)
            prompts = max((len(those) for those in suite.by_class.values()), default=0)
            rows.append(
                {
                    "id": id,
                    "kind": suite.kind,
                    "subjects": len(suite.subjects),
                    "prompts": prompts,
                    "pictures": "here" if here else "missing",
                    "stands_for": suite.stands_for,
                }
            )
        except PcsError as error:
            rows.append({"id": id, "pictures": "missing", "why": str(error)})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        about = (
            f"{row.get('kind', '?'):7} {row.get('subjects', '?'):>3} x {row.get('prompts', '?'):<4}"
        )
        typer.echo(
            f"{row['id']:20} {about} pictures {row['pictures']:8} {row.get('stands_for', '')}"
        )


def list_metrics(as_json: AsJson = False) -> None:
    """List the metrics: model, preprocessing, paper, licence. `mini.` marks the offline rulers."""
    from pcs_bench import metrics

    found = [metrics.get(id) for id in metrics.ids()]
    if as_json:
        rows = [{k: v for k, v in vars(m).items() if k != "measure"} for m in found]
        typer.echo(json.dumps(rows, indent=1))
        return
    for m in found:
        needs = ", ".join(m.needs) or "pictures alone"
        typer.echo(f"{m.id:22} {m.title}; {m.better} is better; per {m.per}; needs {needs}")
        typer.echo(f"{'':22} {m.model} ({m.licence}); {m.preprocessing}; {m.paper or 'ours'}")


def new(
    folder: Annotated[Path, typer.Argument(help="holds a folder of photographs for each subject")],
    noun: Annotated[list[str] | None, typer.Option(help="NAME=NOUN, or one NOUN for all")] = None,
    kind: Annotated[str, typer.Option(help="object, pet or face")] = "object",
    prompts: Annotated[list[str] | None, typer.Option(help="a prompt list, may repeat")] = None,
) -> None:
    """Make a suite of your own photographs: writes suite.toml and a manifest of checksums."""
    from pcs_bench import suites

    path = suites.make(folder, noun or (), kind=kind, lists=prompts or ())
    suite = suites.load(path)
    typer.echo(f"{path}: {len(suite.subjects)} subjects; run it with `pcs bench run {path} ...`")


def validate(
    subjects: Annotated[int, typer.Option(min=2, max=8, help="things of the world")] = 6,
    seed: Annotated[int, typer.Option(help="other pictures")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask every metric about pictures whose truth is known, and print the rank correlation."""
    from pcs_bench.validate import validate as ask

    found = ask(subjects, seed)
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in found], indent=1))
        return
    case = ""
    for f in found:
        if f.case != case:
            case = f.case
            typer.echo(f"{case}: {f.truth}")
        said = f"not asked: {f.why[:70]}..." if f.correlation is None else f"{f.correlation:+.2f}"
        typer.echo(f"  {f.metric:22} {said}{f'  (n = {f.count})' if f.count else ''}")
