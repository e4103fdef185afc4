"""``pcs explain``: what a recipe does, in which order, with which numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import Json, Settings
from pcs_cli.output import columns, emit, emit_json
from pcs_core.errors import PcsError, PluginError, RecipeError

if TYPE_CHECKING:
    from pcs_cli.edits import EditRow
    from pcs_cli.hook_order import HookCall, HookOrder, WordRow
    from pcs_cli.provenance import Number
    from pcs_core.data import Recipe

MEANINGS = {
    "mask": "where each concept lives",
    "extract": "what is worth knowing about the subject",
    "fuse": "what is plugged into the network",
    "regularize": "loss terms of each fit step, summed",
    "sample": "the prediction of each sampling step; wrappers transform it",
}
DEFAULT = "mini"
NOT_OPENED = "no backbone was named: --backbone ID opens one and shows them"
ORDER = ("mask", "extract", "fuse", "regularize", "sample")


def explain(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="A system or a recipe.toml.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="For which backbone, opened to show its edits; where none is given, for mini unopened.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Show what a system does, and in which order.

    Per hook the call order with wrappers drawn around what they wrap, then the phases, what is
    plugged into the network, and where every number comes from.
    """
    from pcs_cli.hook_order import explain as order
    from pcs_cli.opening import backbone_name
    from pcs_cli.provenance import numbers
    from pcs_core.assembly import load_recipe

    name = backbone_name(backbone or DEFAULT)
    recipe = load_recipe(system, backbone=name, overrides=settings or ())

    from pcs_engine import CoreDenoise

    explained = order(recipe, builtin=(CoreDenoise(),))
    edits, missing = edits_of(recipe, name) if backbone else (None, NOT_OPENED)
    if json:
        emit_json(
            {
                **asdict(explained),
                "backbone": name,
                "hash": recipe.hash,
                "document": dict(recipe.document),
                "numbers": [asdict(number) for number in numbers(recipe)],
                "edits": None if edits is None else [asdict(row) for row in edits],
            }
        )
        return
    lines = [head(recipe), "", "Techniques, in order", *uses(recipe), "", "Hooks, in call order"]
    by_name = {hook.hook: hook for hook in explained.hooks}
    for hook in ORDER:
        lines += hook_lines(by_name[hook])
    lines += ["", "Words, by which they meet", *word_lines(explained.words)]
    if recipe.models:
        lines += ["", "Further models, which are asked and do not train", *model_lines(recipe)]
    lines += ["", "Fit", *phases(recipe), "", "Sample", f"  {sample_line(recipe)}"]
    lines += ["", f"Edits on {name}, for one subject", *edit_lines(edits, missing)]
    lines += ["", "Numbers, and where each comes from", *number_lines(numbers(recipe))]
    emit("\n".join(lines))


def edits_of(recipe: Recipe, backbone: str) -> tuple[list[EditRow] | None, str]:
    """Return the overview of edits, or None and why there is none.

    Raises
    ------
    PcsError
        The backbone does not open.
    """
    from pcs_cli.edits import overview
    from pcs_engine import open_backbone

    opened = open_backbone(backbone)
    try:
        return overview(recipe, opened), ""
    except (RecipeError, PluginError):
        # the words of the recipe were checked when it was loaded: what is missing, a subject gives
        return None, "known once a subject is there"
    except PcsError:
        raise
    except Exception:
        # a technique may need features that only a subject's pictures give
        return None, "known once a subject is there"


def head(recipe: Recipe) -> str:
    """Return the title of a recipe."""
    facts = ", ".join(x for x in (recipe.paper, recipe.framework, "/".join(recipe.scope)) if x)
    notes = f"\n{recipe.notes.strip()}" if recipe.notes else ""
    return f"{recipe.id}: {recipe.name or recipe.id} ({facts}){notes}"


def uses(recipe: Recipe) -> list[str]:
    """Return a line per use: its name, technique, and settings."""
    rows = []
    for use in recipe.uses:
        settings = ", ".join(f"{k} = {_value(v)}" for k, v in use.technique.settings().items())
        named = "" if use.name == use.technique.id else use.technique.id
        rows.append((f"  {use.name}", named, settings or "no settings"))
    return columns((), rows).splitlines()


def word_lines(words: Sequence[WordRow]) -> list[str]:
    """Return a line per word: its kind and name, who writes it, who reads it."""
    if not words:
        return ["  (none)"]
    rows = [
        (f"  {row.kind}", row.name, ", ".join(row.writers), ", ".join(row.readers) or "itself")
        for row in words
    ]
    return columns(("  kind", "name", "written by", "read by"), rows).splitlines()


def model_lines(recipe: Recipe) -> list[str]:
    """Return a line per further model: its name, on which network, and what acts there."""
    rows = []
    for model in recipe.models:
        acting = f"the artifact in {model.artifact}" if model.artifact else "nothing: the base"
        if model.system:
            acting = f"{model.system}, fitted first on the same subject"
        rows.append((f"  {model.name}", model.backbone or "the fitted one", acting))
    return columns(("  model", "backbone", "what acts on it"), rows).splitlines()


def hook_lines(hook: HookOrder) -> list[str]:
    """Return a hook's calls: wrappers drawn around what they wrap."""
    lines = [f"  {hook.hook}: {MEANINGS[hook.hook]}"]
    if not hook.calls:
        return [*lines, "    (nobody)"]
    return [*lines, *(f"    {line}" for line in onion(hook.calls))]


def onion(calls: tuple[HookCall, ...]) -> Iterator[str]:
    """Yield the lines of calls, the outermost wrapper first and last."""
    wrappers = [call for call in calls if call.wrapper]
    inner = [call for call in calls if not call.wrapper]
    for depth, call in enumerate(wrappers):
        yield "│ " * depth + f"╭ {call.use} wraps{_position(call)}  {call.where}"
    for number, call in enumerate(inner, 1):
        yield "│ " * len(wrappers) + f"{number}. {call.use}{_position(call)}  {call.where}"
    for depth in reversed(range(len(wrappers))):
        yield "│ " * depth + f"╰ {wrappers[depth].use}"


def phases(recipe: Recipe) -> list[str]:
    """Return a line per phase."""
    if not recipe.phases:
        return ["  (nothing is trained)"]
    rows = [("  phase", "steps", "batch", "lr", "optimizer", "trains", "losses")]
    for phase in recipe.phases:
        rows.append(
            (
                f"  {phase.name}",
                str(phase.steps),
                ", ".join(f"{'all' if n < 0 else n} {role}" for role, n in phase.batch.items()),
                ", ".join(f"{glob}: {lr:g}" for glob, lr in phase.lr.items()),
                phase.optimizer,
                ", ".join(phase.train),
                ", ".join(phase.losses),
            )
        )
    cycles = [f"  the list is run {recipe.cycles} times"] if recipe.cycles > 1 else []
    dropped = [f"  {recipe.caption_dropout:g} of the rows are shown without their caption"]
    return [
        *columns(rows[0], rows[1:]).splitlines(),
        *cycles,
        *(dropped if recipe.caption_dropout else []),
    ]


def sample_line(recipe: Recipe) -> str:
    """Return the sample settings on one line."""
    chosen = recipe.sample
    negative = f", negative {chosen.negative!r}" if chosen.negative else ""
    return f"{chosen.steps} steps of {chosen.scheduler}, scale {chosen.scale:g}{negative}"


def edit_lines(edits: list[EditRow] | None, missing: str) -> list[str]:
    """Return the overview of edits as lines."""
    if edits is None:
        return [f"  ({missing})"]
    if not edits:
        return ["  (none)"]
    rows = [
        (
            f"  {row.use or '-'}",
            f"{row.kind} {row.stage}",
            str(row.count),
            f"{row.numbers:,}",
            row.sites,
        )
        for row in edits
    ]
    return columns(("  use", "stage", "edits", "numbers", "where"), rows).splitlines()


def number_lines(numbers: Sequence[Number]) -> list[str]:
    """Return a line per number: its key for ``--set``, its value, and its source."""
    rows = [(f"  {n.name}", _value(n.value), n.place or n.source) for n in numbers]
    return columns(("  number", "value", "from"), rows).splitlines()


def _position(call: HookCall) -> str:
    return {"tryfirst": " (first)", "trylast": " (last)"}.get(call.position, "")


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
