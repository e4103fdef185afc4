"""Claims about what a fit trains, from what, and by which losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch

from pcs_checks.claims.general import matches
from pcs_checks.observe import NOUN, SEED, Observation
from pcs_core.data import CheckRow
from pcs_testing import build_fusion
from pcs_testing.fixtures import extracted


def stores(
    seen: Observation,
    *,
    only: Sequence[str],
    each: Sequence[str] = (),
    count: int = 0,
    parts: Sequence[str] = (),
) -> Iterator[CheckRow]:
    """The artifact stores tensors of these globs and no other; ``each`` glob has one at least.

    ``count`` is how many there are in all (0: any number), ``parts`` name parts of the network every
    parameter of which has one. Names are ``"<use>/<site or token>/<parameter>"``.
    """
    names = list(seen.artifact.tensors)
    beside = [n for n in names if not matches(n, only)]
    yield CheckRow.compare("stored tensors beside those of the method", len(beside), "==", 0)
    absent = [g for g in (each or only) if not any(fnmatchcase(n, g) for n in names)]
    yield CheckRow.compare("kinds of tensors of the method that are missing", len(absent), "==", 0)
    if count:
        yield CheckRow.compare("stored tensors", len(names), "==", count)
    if parts:
        whole = sum(len(list(seen.backbone.parts[part].parameters())) for part in parts)
        yield CheckRow.compare(
            f"stored tensors, all of {', '.join(parts)}", len(names), "==", whole
        )


def terms(
    seen: Observation,
    *,
    weights: Mapping[str, float],
    phase: str = "",
    into: str = "*",
    of: Sequence[str] = (),
) -> Iterator[CheckRow]:
    """The losses of a phase are exactly these, each with its weight, and reach tensors of ``into``.

    ``of`` are those that must reach them, all where it is empty.
    """
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    step = next((s for s in seen.notes.steps if s.phase == name), None)
    observed = {} if step is None else step.terms
    losses = next((p.losses for p in seen.recipe.phases if p.name == name), ())
    counted = {n: t for n, t in observed.items() if matches(n, losses)}
    yield CheckRow.compare(
        f"{name}: losses beside the method's, or missing", len(set(counted) ^ set(weights)), "==", 0
    )
    for term, weight in weights.items():
        actual = counted[term].weight if term in counted else float("nan")
        yield CheckRow.compare(f"{name}: weight of {term}", actual, "==", weight)
        if of and term not in of:
            continue
        reached = counted[term].reached if term in counted else frozenset()
        touched = any(fnmatchcase(n, into) for n in reached)
        yield CheckRow.compare(f"{name}: {term} reaches {into}", int(touched), "==", 1)


def mean_error(
    seen: Observation, *, phase: str = "", term: str = "core.denoise"
) -> Iterator[CheckRow]:
    """The reconstruction loss (or ``term``) is the mean squared error over all elements, without a mask."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    step = next((s for s in seen.notes.steps if s.phase == name), None)
    value = step.terms[term].value if step and term in step.terms else None
    what = "loss" if term == "core.denoise" else term
    if step is None or value is None:
        yield CheckRow.compare(f"{name}: {what}", float("nan"), "==", 0.0)
        return
    yield CheckRow.compare(f"{name}: |{what} - mean error|", abs(value - step.error), "<=", 1e-5)


def masked_error(seen: Observation, *, phase: str = "") -> Iterator[CheckRow]:
    """The reconstruction loss is not the mean over all elements: regions count differently."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    step = next((s for s in seen.notes.steps if s.phase == name), None)
    value = step.terms["core.denoise"].value if step and "core.denoise" in step.terms else None
    apart = float("nan") if step is None or value is None else abs(value - step.error)
    yield CheckRow.compare(f"{name}: |loss - mean error|", apart, ">", 1e-4)


def inside_alone(seen: Observation, *, phase: str = "") -> Iterator[CheckRow]:
    """Outside of the subject's masks no error counts, and where they cover all each element counts once."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    weights = [pair for s in seen.notes.steps if s.phase == name for pair in s.weights]
    yield CheckRow.compare(f"{name}: rows with a mask", len(weights), ">", 0)
    outside = max((pair[0] for pair in weights), default=float("nan"))
    yield CheckRow.compare(f"{name}: largest weight outside of it", outside, "==", 0.0)
    inside = min((pair[1] for pair in weights), default=float("nan"))
    yield CheckRow.compare(f"{name}: smallest weight inside", inside, "==", 1.0)


def ground_unlearned(seen: Observation, *, phase: str = "") -> Iterator[CheckRow]:
    """Around a picture that was made smaller no error counts, and what counts has a mean weight of 1."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    steps = [s for s in seen.notes.steps if s.phase == name]
    yield CheckRow.compare(f"{name}: rows with a ground", sum(s.padded for s in steps), ">", 0)
    ground = max((s.ground for s in steps), default=float("nan"))
    yield CheckRow.compare(f"{name}: weight of the error on it", ground, "==", 0.0)
    uneven = max((s.uneven for s in steps), default=float("nan"))
    yield CheckRow.compare(f"{name}: |mean weight of a row - 1|", uneven, "<=", 1e-5)


def rows(seen: Observation, *, batch: Mapping[str, int], phase: str = "") -> Iterator[CheckRow]:
    """Each step of a phase has exactly these rows by role."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    steps = [s for s in seen.notes.steps if s.phase == name]
    wrong = sum({r: s.roles.count(r) for r in dict.fromkeys(s.roles)} != dict(batch) for s in steps)
    yield CheckRow.compare(f"{name}: steps", len(steps), ">", 0)
    yield CheckRow.compare(f"{name}: steps with other rows", wrong, "==", 0)


def captions(
    seen: Observation,
    *,
    allowed: Sequence[str],
    phase: str = "",
    role: str = "subject",
    least: int = 1,
) -> Iterator[CheckRow]:
    """Rows of a role are told by these captions alone; ``{token}`` and ``{noun}`` stand for the subject.

    ``least`` is how many different ones are seen at least.
    """
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    texts = {
        caption
        for step in seen.notes.steps
        if step.phase == name
        for caption, r in zip(step.captions, step.roles, strict=True)
        if r == role
    }
    known = {t.replace("{token}", "<thing>").replace("{noun}", NOUN) for t in allowed}
    yield CheckRow.compare(f"{name}: captions of {role} rows", len(texts), ">=", least)
    yield CheckRow.compare(f"{name}: captions beside the method's", len(texts - known), "==", 0)


def class_pictures(seen: Observation, *, prompt: str) -> Iterator[CheckRow]:
    """Prior rows are class pictures that the untuned network draws, told by ``prompt``, of every class."""
    run, _, shown = extracted(seen.recipe, [seen.subject(1)], seen.backbone, seed=SEED)
    examples = [e for given in shown for e in given.examples if e.role == "prior"]
    yield CheckRow.compare("class pictures", len(examples), ">", 0)
    texts = list(dict.fromkeys(prompt.replace("{noun}", c.noun) for c in seen.subject(1).concepts))
    miscaptioned = sum(e.captions not in [(text,) for text in texts] for e in examples)
    yield CheckRow.compare("class pictures of another caption", miscaptioned, "==", 0)
    use = next((u.technique for u in seen.recipe.uses if "prior" in u.technique.id), None)
    for text in texts:
        pictures = [e.image for e in examples if e.captions == (text,)]
        yield CheckRow.compare(f"pictures of {text!r}", len(pictures), ">", 0)
        if not pictures or use is None:
            continue
        settings = use.settings()
        drawn = run.draw(
            [text] * len(pictures), seed=SEED, scale=settings["scale"], steps=settings["steps"]
        )
        drift = float((torch.stack(pictures) - drawn).abs().max())
        yield CheckRow.compare("their difference to the untuned network's own", drift, "<=", 1e-6)


def still(seen: Observation, *, phase: str, glob: str) -> Iterator[CheckRow]:
    """Tensors of ``glob`` are there in a phase and do not train in it."""
    _ = seen.artifact
    owned = [n for n in seen.notes.starts.get(phase, {}) if fnmatchcase(n, glob)]
    yield CheckRow.compare(f"{phase}: tensors of {glob}", len(owned), ">", 0)
    train = [n for n in owned if n in seen.notes.trained[phase]]
    yield CheckRow.compare(f"{phase}: of these, that train", len(train), "==", 0)


def phase_numbers(
    seen: Observation, *, numbers: Mapping[str, float | str], phase: str = ""
) -> Iterator[CheckRow]:
    """The optimizer of a phase has these numbers: schedule, weight_decay, clip, accumulate, warmup, ema."""
    name = phase or seen.recipe.phases[0].name
    trained_phase = next(p for p in seen.recipe.phases if p.name == name)
    for key, expected in numbers.items():
        away = int(getattr(trained_phase, key) != expected)
        yield CheckRow.compare(f"{name}: {key} other than {expected}", away, "==", 0)


def trained_by(
    seen: Observation, *, set: Sequence[str], moves: str, leaves: str = ""
) -> Iterator[CheckRow]:
    """With these settings tensors of ``moves`` learn something else, and those of ``leaves`` the same."""
    other = seen.variant(set).artifact.tensors
    apart = {n for n, t in seen.artifact.tensors.items() if not t.equal(other[n])}
    settings = ", ".join(set)
    moved = sum(fnmatchcase(n, moves) for n in apart)
    yield CheckRow.compare(f"tensors of {moves} that {settings} moves", moved, ">", 0)
    if leaves:
        owned = [n for n in seen.artifact.tensors if fnmatchcase(n, leaves)]
        yield CheckRow.compare(f"tensors of {leaves}", len(owned), ">", 0)
        strays = sum(n in apart for n in owned)
        yield CheckRow.compare(f"tensors of {leaves} that {settings} moves", strays, "==", 0)


def comes_back(seen: Observation, *, after: str, before: str, glob: str) -> Iterator[CheckRow]:
    """What ``before`` trained of ``glob`` is gone again when the phase behind ``after`` begins."""
    _ = seen.artifact
    starts, order = seen.notes.starts, [p.name for p in seen.recipe.phases]
    follower = order[order.index(after) + 1]
    begun = {n: t for n, t in starts.get(before, {}).items() if fnmatchcase(n, glob)}
    during, back = starts.get(after, {}), starts.get(follower, {})
    moved = sum(n in during and not t.equal(during[n]) for n, t in begun.items())
    yield CheckRow.compare(f"{before}: tensors of {glob} that it moved", moved, ">", 0)
    stray = sum(n not in back or not t.equal(back[n]) for n, t in begun.items())
    yield CheckRow.compare(f"{follower}: of these, that did not come back", stray, "==", 0)


def own_updates(seen: Observation, *, use: str) -> Iterator[CheckRow]:
    """A use stores one update for each reference, and no two of a layer are alike."""
    count = len(seen.subject(1).images)
    tensors = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    several = [t for t in tensors if t.dim() == 3 and t.shape[0] == count]
    yield CheckRow.compare("stored tensors of the use", len(tensors), ">", 0)
    yield CheckRow.compare(
        "of these, without one for each reference", len(tensors) - len(several), "==", 0
    )
    alike = sum(t[i].equal(t[j]) for t in several for i in range(count) for j in range(i))
    yield CheckRow.compare("updates of two references that are alike", alike, "==", 0)


def learns_nothing(seen: Observation) -> Iterator[CheckRow]:
    """Nothing is trained and no tensor is stored."""
    yield CheckRow.compare("stored tensors", len(seen.artifact.tensors), "==", 0)
    yield CheckRow.compare("steps of training", len(seen.notes.steps), "==", 0)


def ran(seen: Observation, *, phases: Sequence[str]) -> Iterator[CheckRow]:
    """Exactly these phases trained something."""
    _ = seen.artifact
    others = set(phases) ^ set(seen.notes.starts)
    yield CheckRow.compare("phases beside the method's, or left out", len(others), "==", 0)


def drops(
    seen: Observation,
    *,
    phase: str,
    text: float,
    streams: float,
    both: float,
    subjects: float = 0.0,
) -> Iterator[CheckRow]:
    """Rows of a pre-training lose text, references or both with these probabilities, each subject its own."""
    named = [p.name for p in seen.recipe.phases if p.pretrain]
    yield CheckRow.compare("pre-training phases of this name", named.count(phase), "==", 1)
    fusion = build_fusion(seen.recipe, [seen.subject(1)], seen.backbone)
    shares = {"text": text, "streams": streams, "both": both, "subjects": subjects}
    for name, share in shares.items():
        actual = fusion.dropout.get(name, 0.0)
        yield CheckRow.compare(f"{phase}: share that loses {name}", actual, "==", share)
