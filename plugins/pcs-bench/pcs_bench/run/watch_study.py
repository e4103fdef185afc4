"""``pcs bench watch``: is the checkpoint that a watch keeps better than the last one? Over subjects, paired.

One fit a subject gives both: drawing at checkpoints disturbs no fit. Both are then drawn with the suite's
prompts and other noise than the watch saw, and placed between the two baselines of these pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_bench.run.commands import Backbone, Device, Out, Settings, tell_errors
from pcs_cli import emit, notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_bench.run.plan import Protocol

LINES, RESULT = "watch.jsonl", "watch.json"


# long: the options of a command
def watch(
    suites: Annotated[
        list[str], typer.Argument(metavar="SUITE...", help="Ids of suites, or their files.")
    ],
    out: Out,
    system: Annotated[str, typer.Option("--system", help="The system.")] = "lora-dreambooth",
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Subjects of each suite; 0: all.")
    ] = 0,
    prompts: Annotated[int, typer.Option("--prompts", min=0, help="Prompts each; 0: all.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")] = 2,
    checkpoints: Annotated[
        int, typer.Option("--checkpoints", min=2, help="Even points of the fit, the end included.")
    ] = 8,
    backbone: Backbone = "mini",
    metrics: Annotated[
        str, typer.Option("--metrics", help="Alignment and fidelity, as a,b.", show_default=False)
    ] = "",
    settings: Settings = None,
    fit_seed: Annotated[int, typer.Option("--fit-seed", min=0, help="Seed of every fit.")] = 0,
    device: Device = "auto",
) -> None:
    """Compare --watch fidelity with the last step, over the subjects of all SUITEs: DIR/watch.json.

    The same command goes on after an interruption. Exit codes are those of pcs bench run.
    """
    from pcs_bench import suites as known
    from pcs_bench.run.conduct import check
    from pcs_bench.run.plan import Protocol
    from pcs_bench.run.store import Store, write_json
    from pcs_cli import device_name

    plans = []
    for suite in dict.fromkeys(suites):
        loaded = known.load(suite)
        names = tuple(s.name for s in loaded.subjects)
        protocol = Protocol(
            suite=suite,
            systems=(system,),
            subjects=names[:limit] if limit else names,
            seeds=seeds,
            prompts=prompts,
            fit_seed=fit_seed,
            backbone=backbone,
            device=device_name(device),
            settings=tuple(settings or ()),
            metrics=chosen_metrics(metrics, backbone),
        )
        check(protocol, loaded)
        plans.append((protocol, loaded))
    store = Store(out.expanduser().resolve())
    rows = [row for plan in plans for row in study(*plan, store, checkpoints)]
    result = summary(rows)
    write_json(
        store.folder / RESULT,
        {
            "protocols": [protocol.document() for protocol, _ in plans],
            "checkpoints": checkpoints,
            "subjects": rows,
            "summary": result,
        },
    )
    emit(result["answer"])
    emit(str(store.folder / RESULT))
    tell_errors([row["error"] for row in rows if row.get("error")])


def chosen_metrics(text: str, backbone: str) -> tuple[str, ...]:
    """Return the ids of alignment and fidelity; without a text those of ``pcs fit --watch fidelity``.

    Raises
    ------
    InputError
        Not two.
    """
    prefix = "mini." if backbone == "mini" else ""
    ids = tuple(m.strip() for m in text.split(",") if m.strip())
    ids = ids or (f"{prefix}clip-t", f"{prefix}clip-i")
    if len(ids) != 2:
        raise InputError(f"--metrics {text!r}: give two, alignment and then fidelity, as a,b")
    return ids


def study(protocol: Protocol, suite: Any, store: Any, checkpoints: int) -> list[dict[str, Any]]:
    """Return a row per subject of a suite, those that ``store`` holds already among them.

    Raises
    ------
    InputError
        A metric or the system does not open; found out before the first fit.
    """
    from pcs_bench import metrics
    from pcs_bench.run.keys import digest, versions
    from pcs_bench.run.scoring import one_line
    from pcs_bench.run.store import read_lines
    from pcs_bench.run.workplace import Workplace, load_system

    place = Workplace(store, protocol, suite)
    recipe = load_system(protocol, protocol.systems[0])
    eyes = [metrics.get(id) for id in protocol.metrics]
    facts = digest(
        **{**protocol.document(), "subjects": []},
        recipe=recipe.hash,
        backbone_hash=place.backbone.card.hash,
        checkpoints=checkpoints,
        versions=versions(),
    )
    rows = []
    with store.locked():
        known = read_lines(store.folder / LINES)
        with store.appending(LINES) as appender:
            for name in protocol.subjects:
                key = f"{protocol.suite}/{name}"
                line = known.get(key, {})
                if line.get("protocol") != facts or line.get("error"):
                    try:
                        row = _subject(place, recipe, eyes, name, checkpoints)
                    except Exception as error:
                        row = {"error": one_line(error)}
                    line = {"key": key, "protocol": facts, **row}
                    appender.add(line)
                notice(_row_line(line))
                rows.append(dict(line))
    return rows


def _subject(
    place: Any, recipe: Any, eyes: Sequence[Any], name: str, checkpoints: int
) -> dict[str, Any]:
    from pcs_bench.run.plan import prompts_of
    from pcs_bench.run.watching import Watch
    from pcs_core import fit

    protocol, subject = place.protocol, place.subject(name)
    watching = Watch([subject], place.backbone, *eyes)
    last: list[Any] = []

    def keep(artifacts: Sequence[Any]) -> list[bool]:
        last[:] = artifacts
        return watching(artifacts)

    (kept,) = fit(
        recipe,
        subject,
        place.backbone,
        seed=protocol.fit_seed,
        keep=keep,
        checkpoints=checkpoints,
    )
    texts = [p.text for p in prompts_of(place.suite, name)][: protocol.prompts or None]
    row: dict[str, Any] = {
        "kept": watching.kept[name],
        "of": len(watching.points[name]),
        "seen": [[p.alignment, p.fidelity, p.quality] for p in watching.points[name]],
    }
    alignment, fidelity = eyes
    drawn: dict[str, Any] = {"prompts": texts, "seed": 0, "count": protocol.seeds}
    judge = Watch([subject], place.backbone, alignment, fidelity, **drawn)
    for label, artifact in (("watched", kept), ("last", last[0])):
        point = judge.point(artifact, subject)
        row[label] = {part: getattr(point, part) for part in ("alignment", "fidelity", "quality")}
    return row


def _row_line(line: dict[str, Any]) -> str:
    if line.get("error"):
        return f"{line['key']}: {line['error']}"
    qualities = line["watched"]["quality"], line["last"]["quality"]
    return (
        f"{line['key']}: checkpoint {line['kept']} of {line['of']} kept; quality {qualities[0]:.3f}, "
        f"last step {qualities[1]:.3f}"
    )


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the paired difference in quality with interval, p-value and a sentence.

    Quality is the geometric mean of alignment and fidelity, each 0 at one baseline and 1 at the other.
    """
    from pcs_bench.report.claims import p_words
    from pcs_bench.report.statistics import interval, sign_flip

    done = [row for row in rows if not row.get("error")]
    if not done:
        return {"verdict": "not tested", "answer": "Not tested: no subject was fitted.", "n": 0}
    apart = [row["watched"]["quality"] - row["last"]["quality"] for row in done]
    moved = [row for row in done if row["kept"] != row["of"]]
    span, p = interval([[d] for d in apart]), sign_flip(apart)
    assert span is not None
    wins, losses = sum(d > 0 for d in apart), sum(d < 0 for d in apart)
    answer = (
        f"Over {len(done)} subjects the kept checkpoint scores {span.mean:+.3f} in quality against the last "
        f"step (better {wins}, worse {losses}, the last step itself {len(done) - len(moved)}), p {p_words(p)}"
    )
    if span.low is not None:
        answer += f", 95% interval {span.low:+.3f} to {span.high:+.3f}"
    verdict = "undecided"
    if p < 0.05:
        verdict = "beats the last step" if span.mean > 0 else "loses to the last step"
    means = {
        label: {
            part: sum(row[label][part] for row in done) / len(done)
            for part in ("alignment", "fidelity", "quality")
        }
        for label in ("watched", "last")
    }
    return {
        "verdict": verdict,
        "answer": f"{answer}: {verdict}.",
        "n": len(done),
        "difference": span.mean,
        "low": span.low,
        "high": span.high,
        "p": p,
        "better": wins,
        "worse": losses,
        "means": means,
    }
