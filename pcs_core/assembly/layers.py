"""Putting layers over one another: ``extends``, then ``[backbone.<id>]``.

Uses are merged by name. A list of phases replaces the phases below it, except a backbone's list
with exactly the names below it, which is merged by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcs_core.assembly.schema import FACTS, USE_KEYS
from pcs_core.assembly.tables import Layer, Table
from pcs_core.errors import RecipeError, nearest


def use_name(use: Table) -> str:
    """Return the name of a ``[[use]]``: its own, or the technique's id.

    Raises
    ------
    RecipeError
        It names no technique, or one of the two is no text.
    """
    for key in USE_KEYS:
        if key in use.values and not isinstance(use.values[key], str):
            raise RecipeError(f"{use.where(key)}: [[use]] {key} must be text")
    name = use.values.get("name", use.values.get("technique"))
    if not name:
        raise RecipeError(f'{use.place}: [[use]] without a technique (technique = "<id>")')
    return str(name)


def phase_name(phase: Table) -> str:
    """Return the name of a ``[[phase]]``; raises as :func:`model_name`."""
    return _own_name(phase, "phase")


def model_name(model: Table) -> str:
    """Return the name of a ``[[model]]``.

    Raises
    ------
    RecipeError
        It has none.
    """
    return _own_name(model, "model")


def _own_name(table: Table, header: str) -> str:
    name = table.values.get("name")
    if not isinstance(name, str) or not name:
        raise RecipeError(f'{table.where("name")}: [[{header}]] without a name (name = "<name>")')
    return name


def extend(parent: Layer, child: Layer) -> Layer:
    """Return ``parent`` with ``child`` over it, uses and models merged by name.

    Phases of the child replace the parent's, and with them what the parent's backbone tables say
    about phases.
    """
    _check_names(parent)
    _check_names(child)
    recipe = parent.recipe.merged(child.recipe)
    recipe.values.pop("extends", None)
    for fact in FACTS:  # those of the parent's paper are not the child's
        if fact not in child.recipe.values:
            recipe.values.pop(fact, None)
    merged = Layer(
        recipe=recipe,
        uses=_merge_uses(parent.uses, child.uses),
        phases=child.phases or parent.phases,
        # what a child says of a model is the whole of it
        models=list({model_name(m): m for m in (*parent.models, *child.models)}.values()),
        fit=parent.fit.merged(child.fit),
        sample=parent.sample.merged(child.sample),
        file=child.file,
    )
    for id in dict.fromkeys((*parent.backbones, *child.backbones)):
        below, above = parent.backbones.get(id, Layer()), child.backbones.get(id, Layer())
        merged.backbones[id] = merge_overlays(below, above, keep_phases=not child.phases)
    merged.check = child.check or parent.check
    merged.facts = child.facts  # of one system, not of what extends it
    return merged


def merge_overlays(below: Layer, above: Layer, *, keep_phases: bool = True) -> Layer:
    """Return what differs on a backbone by two sources, ``above`` over ``below``.

    Without ``keep_phases``, or where ``above`` lists phases itself, what ``below`` says of phases goes.
    """
    keep = keep_phases and not above.phases
    return Layer(
        uses=_merge_uses(below.uses, above.uses),
        phases=above.phases or (below.phases if keep else []),
        fit=below.fit.merged(above.fit),
        sample=below.sample.merged(above.sample),
        use_changes=_merge_changes(below.use_changes, above.use_changes),
        phase_changes=_merge_changes(below.phase_changes if keep else {}, above.phase_changes),
        removed=tuple(dict.fromkeys((*below.removed, *above.removed))),
        file=above.file or below.file,
    )


def for_backbone(layer: Layer, *targets: str) -> Layer:
    """Return ``layer`` with what differs on each of ``targets`` applied in order, where it has any.

    All backbone tables are checked for names that do not exist, applied or not.

    Raises
    ------
    RecipeError
        Two uses or phases of one name, or a change of one that is not there.
    """
    _check_names(layer)
    for id, above in layer.backbones.items():
        _apply(layer, id, above)
    applied = layer
    for target in dict.fromkeys(targets):
        if target in layer.backbones:
            applied = _apply(applied, target, layer.backbones[target])
    return applied


def all_uses(layer: Layer) -> list[Table]:
    """Return the uses of the layer and of each of its backbone tables, changes completed."""
    by_name = {use_name(use): use for use in layer.uses}
    tables = list(layer.uses)
    for above in layer.backbones.values():
        for use in _merge_uses([], above.uses):
            below = by_name.get(use_name(use))
            tables.append(_with_technique(use, below))
        tables += [_with_technique(use, by_name[name]) for name, use in above.use_changes.items()]
    return tables


def all_phases(layer: Layer) -> list[Table]:
    """Return the phases of the layer and of each of its backbone tables, and changes of them."""
    tables = list(layer.phases)
    for above in layer.backbones.values():
        tables += [*above.phases, *above.phase_changes.values()]
    return tables


def _apply(layer: Layer, id: str, above: Layer) -> Layer:
    for name in above.removed:
        if name not in (known := [use_name(u) for u in layer.uses]):
            raise RecipeError(
                f"{layer.file}: [backbone.{id}] removes {name!r}, which is no use"
                f"{nearest(name, known)} (uses: {', '.join(known)})"
            )
    uses = _merge_uses([u for u in layer.uses if use_name(u) not in above.removed], above.uses)
    phases = layer.phases
    if above.phases:
        same = [phase_name(p) for p in above.phases] == [phase_name(p) for p in phases]
        pairs = zip(phases, above.phases, strict=False)
        phases = [below.merged(p) for below, p in pairs] if same else above.phases
    changed = Layer(
        recipe=layer.recipe,
        uses=_change(uses, [use_name(u) for u in uses], above.use_changes, "use", id),
        phases=_change(phases, [phase_name(p) for p in phases], above.phase_changes, "phase", id),
        models=layer.models,
        fit=layer.fit.merged(above.fit),
        sample=layer.sample.merged(above.sample),
        check=layer.check,
        file=layer.file,
    )
    _check_names(changed)
    return changed


def _change(
    tables: list[Table], names: list[str], changes: dict[str, Table], what: str, id: str
) -> list[Table]:
    changed = dict(zip(names, tables, strict=True))
    for name, change in changes.items():
        header = f"[backbone.{id}.{what}.{_quoted(name)}]"
        if name not in changed:
            hint = _dots(name, change, names) or nearest(name, names)
            hint = hint or f" (known: {', '.join(names) or 'none'})"
            raise RecipeError(f"{change.place}: {header}: no {what} {name!r}{hint}")
        for key in USE_KEYS if what == "use" else ("name",):
            if key in change.values:
                raise RecipeError(f"{change.where(key)}: {header} may not change the {key}")
        changed[name] = changed[name].merged(change)
    return list(changed.values())


def _merge_uses(below: Sequence[Table], above: Sequence[Table]) -> list[Table]:
    merged = {use_name(use): use for use in below}
    for use in above:
        name = use_name(use)
        first = merged.get(name)
        other = use.values.get("technique")
        # settings of another technique mean nothing to this one
        replaces = first is None or other not in (None, first.values.get("technique"))
        merged[name] = use if replaces or first is None else first.merged(use)
    return list(merged.values())


def _merge_changes(below: dict[str, Table], above: dict[str, Table]) -> dict[str, Table]:
    merged = dict(below)
    for name, table in above.items():
        merged[name] = merged[name].merged(table) if name in merged else table
    return merged


def _with_technique(use: Table, below: Table | None) -> Table:
    if below is None or "technique" in use.values:
        return use
    return Table({"technique": below.values.get("technique"), **use.values}, use.places, use.place)


def _check_names(layer: Layer) -> None:
    uses = [(use_name(u), u) for u in layer.uses]
    phases = [(phase_name(p), p) for p in layer.phases]
    models = [(model_name(m), m) for m in layer.models]
    _unique(uses, "use", "give one of them a name of its own")
    _unique(models, "model", "rename one")
    _unique(phases, "phase", "rename one")
    taken = {name for name, _ in uses} | {"sample"}
    for what, named in (("phase", phases), ("model", models)):
        for name, table in named:
            if name in taken:
                raise RecipeError(
                    f"{table.where('name')}: {name!r} cannot be the name of a {what}: it is taken"
                )
        taken |= {name for name, _ in named}


def _unique(named: Iterable[tuple[str, Table]], what: str, mend: str) -> None:
    seen: dict[str, Table] = {}
    for name, table in named:
        if name in seen:
            raise RecipeError(
                f"{table.place}: two {what}s are called {name!r} (the other at "
                f"{seen[name].place}): {mend}"
            )
        seen[name] = table


def _dots(name: str, change: Table, names: Iterable[str]) -> str:
    # [backbone.mini.use.tokens.learnable] reads as the name "tokens" holding a table "learnable"
    for key, value in change.values.items():
        if isinstance(value, dict) and f"{name}.{key}" in names:
            return f', a name with a dot is quoted: "{name}.{key}"'
    return ""


def _quoted(name: str) -> str:
    return f'"{name}"' if "." in name else name
