"""Claims that hold of every system, without a recipe naming them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from pcs_checks.observe import Observation, Step
from pcs_core.data import ALL, CheckRow, HeadEdit, PixelEdit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcs_core.data import Personalization

MOST = 12
"""Tensors that are changed one by one: evenly over all, each use among them."""


def base_untouched(seen: Observation) -> Iterator[CheckRow]:
    """No tensor of the network differs after fitting and drawing."""
    before = seen.before
    _ = seen.picture
    after = {
        f"{part}/{name}": tensor
        for part, module in seen.backbone.parts.items()
        for name, tensor in module.state_dict().items()
    }
    changed = sum(name not in after or not after[name].equal(v) for name, v in before.items())
    yield CheckRow.compare(
        "tensors of the network that changed", changed + len(set(after) - set(before)), "==", 0
    )


def finite(seen: Observation) -> Iterator[CheckRow]:
    """Losses, stored tensors and the picture are finite."""
    tensors = [*seen.artifact.tensors.values(), *seen.artifact.features.values(), seen.picture]
    bad = sum(not bool(torch.isfinite(t.float()).all()) for t in tensors)
    values = [t.value for step in seen.notes.steps for t in step.terms.values()]
    bad += sum(value != value or abs(value) == float("inf") for value in values)
    yield CheckRow.compare("tensors and losses that are not finite", bad, "==", 0)


def deterministic(seen: Observation) -> Iterator[CheckRow]:
    """The same seed draws the same picture, bit for bit."""
    again = seen.draw()
    yield CheckRow.compare(
        "pixels that differ at the same seed", int((again != seen.picture).sum()), "==", 0
    )


def effect(seen: Observation) -> Iterator[CheckRow]:
    """The system's picture is not the untuned network's."""
    moved = float((seen.picture - seen.untuned).abs().max())
    yield CheckRow.compare("largest change of the untuned picture", moved, ">", 1e-6)


def other_subject(seen: Observation) -> Iterator[CheckRow]:
    """Another subject gives another picture, where a system learns from pictures what a drawing reads.

    What a protection learns is in the pictures that it changes: a drawing does not read it.
    """
    alone, names = in_fit_alone(seen), list(seen.artifact.tensors)
    if not seen.recipe.phases or (names and all(matches(n, alone) for n in names)):
        return
    moved = float((seen.draw(seen.other) - seen.picture).abs().max())
    yield CheckRow.compare("picture moved by another subject", moved, ">", 1e-7)


def globs_move(seen: Observation) -> Iterator[CheckRow]:
    """In each phase every ``train`` glob names tensors that moved, and nothing else moved."""
    _ = seen.artifact
    for name, begin in seen.notes.starts.items():
        phase = next(p for p in seen.recipe.phases if p.name == name)
        trained = trained_in(seen, name)
        absent = [g for g in phase.train if not any(fnmatchcase(n, g) for n in trained)]
        yield CheckRow.compare(f"{name}: `train` globs without a tensor", len(absent), "==", 0)
        # before the update of the last step: the updates of all others are in
        latest = seen.notes.latest[name]
        moved = {n for n, value in begin.items() if not value.equal(latest[n])}
        quiet = [g for g in phase.train if not any(fnmatchcase(n, g) for n in moved)]
        yield CheckRow.compare(f"{name}: `train` globs that nothing moved", len(quiet), "==", 0)
        strays = [n for n in moved if not matches(n, phase.train)]
        yield CheckRow.compare(f"{name}: tensors that moved unasked", len(strays), "==", 0)


def terms_reach(seen: Observation) -> Iterator[CheckRow]:
    """In each phase a loss reaches what trains, and every named loss is there with a weight.

    Where nothing asks for a gradient, a loss reaches what trains if it tells candidates of one step apart.
    """
    _ = seen.artifact
    for name in seen.notes.starts:
        phase = next(p for p in seen.recipe.phases if p.name == name)
        step = next(s for s in seen.notes.steps if s.phase == name)
        counted = {n: t for n, t in step.terms.items() if matches(n, phase.losses)}
        trained = seen.notes.trained[name]
        if trained:
            reached = frozenset().union(*(t.reached for t in counted.values()))
            share = len(reached) / len(trained)
            yield CheckRow.compare(
                f"{name}: share of trained tensors with a gradient", share, ">", 0.0
            )
            dead = [n for n, t in counted.items() if not t.reached]
        else:
            dead = [n for n in counted if len(values_of(seen, step, n)) < 2]
        off = {u.name for u in seen.recipe.uses if u.technique.settings().get("weight") == 0.0}
        named = [g for g in phase.losses if g not in off]
        absent = [g for g in named if not any(fnmatchcase(n, g) for n in counted)]
        yield CheckRow.compare(f"{name}: named losses that are missing", len(absent), "==", 0)
        yield CheckRow.compare(f"{name}: losses that reach nothing", len(dead), "==", 0)


def trained_in(seen: Observation, name: str) -> frozenset[str]:
    """Return what trains in phase ``name``: what has a gradient, or where nothing has, what it names."""
    phase = next(p for p in seen.recipe.phases if p.name == name)
    return seen.notes.trained[name] or frozenset(
        n for n in seen.notes.starts[name] if matches(n, phase.train)
    )


def values_of(seen: Observation, step: Step, term: str) -> set[float]:
    """Return the values of a loss term in a step, of each candidate that was tried in it."""
    return {
        s.terms[term].value
        for s in seen.notes.steps
        if (s.phase, s.index) == (step.phase, step.index) and term in s.terms
    }


def roles_used(seen: Observation) -> Iterator[CheckRow]:
    """Every role of a phase's batch is drawn in it, as often as it says."""
    _ = seen.artifact
    for name in seen.notes.starts:
        phase = next(p for p in seen.recipe.phases if p.name == name)
        if phase.pretrain:
            continue
        steps = [s for s in seen.notes.steps if s.phase == name]
        wrong = sum(
            sum(role == r for r in step.roles) != count
            for step in steps
            for role, count in phase.batch.items()
            if count != ALL
        )
        yield CheckRow.compare(f"{name}: steps with other rows than its batch", wrong, "==", 0)


def phases_in_order(seen: Observation) -> Iterator[CheckRow]:
    """Phases run in the order of the recipe, each for its steps."""
    _ = seen.artifact
    ran = list(dict.fromkeys(s.phase for s in seen.notes.steps))
    listed = [p.name for p in seen.recipe.phases if p.steps and p.name in ran]
    # a pre-training's phases come first
    listed.sort(key=lambda n: not next(p for p in seen.recipe.phases if p.name == n).pretrain)
    yield CheckRow.compare("phases out of order", int(ran != listed), "==", 0)


def owned_matter(seen: Observation) -> Iterator[CheckRow]:
    """Every stored tensor changes the picture: nothing is learned that nothing reads."""
    alone = in_fit_alone(seen)
    names = [n for n in seen.artifact.tensors if not matches(n, alone)]
    chosen = spread(names, MOST)
    deaf = []
    for name in chosen:
        tensors = dict(seen.artifact.tensors)
        rng = torch.Generator().manual_seed(0)
        value = tensors[name]
        # large against what a few steps learned, small enough to stay finite
        noise = torch.randn(value.shape, generator=rng) * 0.5
        tensors[name] = value + noise.to(value.dtype)
        changed = with_tensors(seen.artifact, tensors)
        if bool((seen.draw(changed) == seen.picture).all()):
            deaf.append(name)
    yield CheckRow.compare("stored tensors that change no pixel", len(deaf), "==", 0)


def in_fit_alone(seen: Observation) -> tuple[str, ...]:
    """Return globs of the tensors that act in fits only, or plug into nothing when drawing."""
    from pcs_testing import build_fusion

    fusion = build_fusion(seen.recipe, [seen.subject(1)], seen.backbone)
    return tuple(
        f"{edit.owner}/{edit.key(0)}/*"
        for edit in fusion.edits
        if edit.mode == "fit"
        or isinstance(edit, HeadEdit)
        or (isinstance(edit, PixelEdit) and edit.stage() == "input")
    )


def with_tensors(artifact: Personalization, tensors: dict[str, torch.Tensor]) -> Personalization:
    """Return an artifact with other tensors."""
    return replace(artifact, tensors=tensors)


def spread(names: list[str], most: int) -> list[str]:
    """Return at most ``most`` of ``names``: of each use and kind of parameter, then evenly over the rest."""
    kinds: dict[tuple[str, str], str] = {}
    for name in names:
        kinds.setdefault((name.partition("/")[0], name.replace(".", "/").rpartition("/")[2]), name)
    chosen = dict.fromkeys(list(kinds.values())[:most])
    rest = [n for n in names if n not in chosen]
    room = most - len(chosen)
    return [*chosen, *(rest[:: max(len(rest) // room, 1)][:room] if room else ())]


def matches(name: str, globs: Iterable[str]) -> bool:
    """Return whether one of ``globs`` matches."""
    return any(fnmatchcase(name, glob) for glob in globs)


GENERAL = (
    base_untouched,
    finite,
    deterministic,
    effect,
    other_subject,
    globs_move,
    terms_reach,
    roles_used,
    phases_in_order,
    owned_matter,
)
"""Claims of every system, in the order in which they are shown."""
