"""The quality gate: what the judge says of pictures that nobody trained on.

The prompts are put together from the words that the weights know, as their record says
(`world.curriculum`). Every prompt asks for a combination of concept, style and place that is reserved
(see `world.reserved`): its words were trained, the combination never. The judge was trained on
renders; how right it is about renders of the same prompts is measured beside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_core.errors import InputError
from pcs_mini.digest import weights_sha256
from pcs_mini.generate import check_model, load_parts, pictures
from pcs_mini.metrics.judge import Judge, Reading, open_judge
from pcs_mini.training.autoencoder import psnr
from pcs_mini.world import grammar, scene
from pcs_mini.world.assets import Assets, open_assets
from pcs_mini.world.backdrops import known
from pcs_mini.world.curriculum import known_population, read_record
from pcs_mini.world.population import Member, Population, core, held_out
from pcs_mini.world.pose import pose_of
from pcs_mini.world.reserved import is_reserved

Report = Callable[[str], None]

BOUNDS = {
    "concept_accuracy": 0.80,
    "place_accuracy": 0.90,
    "style_accuracy": 0.80,
    "two_subject_accuracy": 0.60,
    "judge_accuracy": 0.95,
    "vae_psnr_db": 28.0,
}
"""What the gate asks for at least."""
PAIRS = 0.2
"""Share of the prompts that name two subjects."""
CORE_PROMPTS = 0.5
"""Share of the prompts of one subject whose concept is one of `world.population.core`."""
SPREAD = 4
"""Pictures of one prompt that diversity compares."""
REPEATS = 2
"""How often a prompt may come up where there are too few."""
RENDER_SEED = 987_654
_BATCH = 50


@dataclass(frozen=True)
class Asked:
    """One prompt and what a right picture of it shows."""

    text: str
    members: tuple[Member, ...]
    style: str
    place: str
    relation: str = ""

    @property
    def concepts(self) -> tuple[str, ...]:
        """As captions name them."""
        return tuple(grammar.noun_of(member.concept) for member in self.members)


def compose_prompts(
    assets: Assets, population: Population, judge: Judge, n: int = 500, seed: int = 0
) -> list[Asked]:
    """`n` prompts of reserved combinations of this population; the judge can read them.

    The same for a seed. A stage may have fewer: then prompts come up again, at most
    :data:`REPEATS` times each, and are drawn from other noise.

    Raises
    ------
    InputError
        If the archive holds too little to put `n` prompts together.
    """
    rng = np.random.default_rng((RENDER_SEED, seed))
    places = sorted(set(known(assets)) & set(judge.names["place"]))
    those = [m for m in population.members if grammar.noun_of(m.concept) in judge.names["concept"]]
    first = [m for m in those if m.concept in core()] or those
    chosen: dict[str, Asked] = {}
    for _ in range(400 * n):
        if len(chosen) == n:
            return list(chosen.values())
        pool = first if rng.random() < CORE_PROMPTS else those
        one = _evenly(rng, pool)
        place = places[rng.integers(len(places))]
        if not is_reserved(one.concept, one.style, place):
            continue
        asked = _asked(rng, population, one, place, len(chosen) % round(1 / PAIRS) == 0)
        if asked is not None:
            chosen.setdefault(asked.text, asked)
    if REPEATS * len(chosen) >= n:
        return (list(chosen.values()) * REPEATS)[:n]
    raise InputError(
        f"{assets.path.name} gives {len(chosen)} prompts of what the weights know, not {n}: ask for "
        "fewer with --prompts, or install pcs-mini-world"
    )


def _evenly(rng: np.random.Generator, members: Sequence[Member]) -> Member:
    """A member of a concept drawn evenly, so that a concept of many styles counts once."""
    concepts = sorted({m.concept for m in members})
    name = concepts[rng.integers(len(concepts))]
    same = [m for m in members if m.concept == name]
    return same[rng.integers(len(same))]


def _asked(
    rng: np.random.Generator, population: Population, one: Member, place: str, pair: bool
) -> Asked | None:
    """The prompt of one subject, or of it and another core subject of its style."""
    members: tuple[Member, ...] = (one,)
    relation = ""
    if pair:
        others = [
            m
            for m in population.members
            if m.style == one.style and m.concept in core() and m.concept != one.concept
        ]
        relations = sorted(set(scene.RELATED) - held_out().relations - {"", "behind"})
        if not others or one.kind == "person" or one.concept not in core():
            return None
        members = (one, others[rng.integers(len(others))])
        relation = relations[rng.integers(len(relations))]
    mentions = [grammar.Mention(grammar.noun_of(m.concept), style=m.style) for m in members]
    text = grammar.prompt(mentions, place, grammar.RELATIONS[relation][0] if relation else None)
    return Asked(text, members, one.style, place, relation)


def renders(assets: Assets, asked: Sequence[Asked]) -> Tensor:
    """Real pictures ``[n, 3, 128, 128]`` of these prompts, 0..1, in the things' own colours."""
    rng = np.random.default_rng(RENDER_SEED)
    drawn = [
        scene.draw(
            rng,
            assets,
            Population(a.members),
            subjects=a.members,
            poses=[pose_of(rng, assets, m, colour="") for m in a.members],
            place=a.place,
            relation=a.relation,
            count=len(a.members),
        ).image
        for a in asked
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def score(judge: Judge, images: Tensor, asked: Sequence[Asked]) -> dict[str, float]:
    """Shares of pictures in which the judge finds what was asked, 0..1.

    ``concept_accuracy`` (of prompts of one subject: the surest concept is the asked one),
    ``core_concept_accuracy`` (the same of core concepts alone), ``two_subject_accuracy`` (of prompts
    of two: the two surest concepts are the asked ones), ``relation_accuracy`` (of those in which
    both are found and the relation says who is left, right or on top), ``style_accuracy`` and
    ``place_accuracy``.
    """
    right: dict[str, list[bool]] = {}
    for at in range(0, len(asked), _BATCH):
        some = asked[at : at + _BATCH]
        reading = judge.read(images[at : at + _BATCH])
        correct = judge.concepts_match(reading, [a.concepts for a in some])
        styles, places = judge.top("style", reading), judge.top("place", reading)
        for i, (a, ok) in enumerate(zip(some, correct, strict=True)):
            right.setdefault("style_accuracy", []).append(styles[i] == a.style)
            right.setdefault("place_accuracy", []).append(places[i] == a.place)
            if len(a.members) == 2:
                right.setdefault("two_subject_accuracy", []).append(ok)
                stands = relation_holds(judge, reading, i, a) if ok else None
                if stands is not None:
                    right.setdefault("relation_accuracy", []).append(stands)
                continue
            right.setdefault("concept_accuracy", []).append(ok)
            if a.members[0].concept in core():
                right.setdefault("core_concept_accuracy", []).append(ok)
    return {key: round(sum(v) / len(v), 4) for key, v in sorted(right.items())}


def relation_holds(judge: Judge, reading: Reading, at: int, asked: Asked) -> bool | None:
    """Whether the first subject of picture `at` stands to the second as asked; None if not asked."""
    if asked.relation not in ("left of", "right of", "on top of"):
        return None
    spots = []
    for concept in asked.concepts:
        cells = reading.cells[at, judge.index("concept", concept)]
        weight = cells / cells.sum().clamp_min(1e-6)
        along = torch.arange(len(cells), dtype=weight.dtype, device=weight.device)
        spots.append((float((weight.sum(0) * along).sum()), float((weight.sum(1) * along).sum())))
    (x0, y0), (x1, y1) = spots
    return {"left of": x0 < x1, "right of": x0 > x1, "on top of": y0 < y1}[asked.relation]


def spread(images: Tensor, each: int = SPREAD) -> float:
    """Mean distance of two pictures of one prompt, over prompts.

    ``images`` is ``[prompts * each, 3, h, w]``; pictures are compared at 16 px, where grain and
    blur do not count, by the root of the mean squared difference.
    """
    small = F.interpolate(images, (16, 16), mode="area").flatten(1).unflatten(0, (-1, each))
    apart = torch.cdist(small, small) / small.shape[-1] ** 0.5
    return float(apart.sum((1, 2)).mean() / (each * (each - 1)))


def diversity(
    assets: Assets,
    population: Population,
    asked: Sequence[Asked],
    draw: Callable[[list[str]], Tensor],
) -> float:
    """How much pictures of one prompt differ, against renders of it, 0..1.

    The prompts leave the style open; 1 means that pictures differ as much as renders do.
    """
    texts, requests = [], []
    rng = np.random.default_rng(RENDER_SEED)
    for a in asked:
        noun = a.concepts[0]
        texts += [grammar.prompt([grammar.Mention(noun)], a.place)] * SPREAD
        styles = [m for m in population.members if m.concept == a.members[0].concept]
        for _ in range(SPREAD):
            member = styles[rng.integers(len(styles))]
            requests.append(Asked("", (member,), member.style, a.place))
    return min(1.0, spread(draw(texts)) / max(1e-6, spread(renders(assets, requests))))


# long: every figure of a report, in the order of its columns
def evaluate(
    folder: Path,
    prompts: int = 500,
    *,
    archive: Path | None = None,
    metrics: Path | None = None,
    seed: int = 0,
    steps: int = 25,
    guidance: float = 3.0,
    device: str = "cpu",
    report: Report = lambda line: None,
) -> tuple[dict[str, Any], list[Asked], Tensor]:
    """The figures as one flat object, the prompts, and the generated pictures in 0..1.

    ``judge_accuracy`` is the smallest of the judge's accuracies (concept, two subjects, style,
    place) on renders of the same prompts; each is there as ``judge_<name>``.
    """
    began = time.monotonic()
    check_model(folder)
    judge = open_judge(metrics, device)
    assets = open_assets(archive)
    record, population = read_record(folder), known_population(folder, assets)
    asked = compose_prompts(assets, population, judge, prompts, seed)
    concepts = len({m.concept for m in population.members})
    report(f"trained on stage {record['stage']}, {record['title']}: {concepts} concepts")
    parts = load_parts(folder, device)
    report(f"rendering {prompts} prompts")
    real = renders(assets, asked)
    trusted = score(judge, real, asked)
    report(f"the judge on renders: {trusted}")
    decibel = psnr(parts.vae, real[:200].to(device) * 2 - 1)

    def draw(texts: list[str], first: int, what: str) -> Tensor:
        some = []
        for at in range(0, len(texts), _BATCH):
            some.append(
                pictures(
                    parts,
                    texts[at : at + _BATCH],
                    steps=steps,
                    guidance=guidance,
                    seed=first + at,
                )
            )
            done = min(at + _BATCH, len(texts))
            report(f"{what}: {done}/{len(texts)} pictures, {time.monotonic() - began:.0f} s")
        return torch.cat(some)

    drawn = draw([a.text for a in asked], seed, "prompts")
    alone = [a for a in asked if len(a.members) == 1 and a.members[0].concept in core()]
    few = (alone or asked)[: max(2, math.ceil(prompts / 20))]
    figures: dict[str, Any] = {
        **score(judge, drawn, asked),
        **{f"judge_{key}": value for key, value in trusted.items()},
        "judge_accuracy": min(
            v for k, v in trusted.items() if not k.startswith(("core", "relation"))
        ),
        "diversity": round(
            diversity(
                assets, population, few, lambda texts: draw(texts, seed + 10_000, "diversity")
            ),
            4,
        ),
        "vae_psnr_db": round(decibel, 2),
        "prompts": prompts,
        "seconds": round(time.monotonic() - began, 1),
        "weights_sha256": weights_sha256(folder),
        "world_sha256": assets.sha256,
        "stage": record["stage"],
        "stage_concepts": concepts,
    }
    return figures, asked, drawn


__all__ = ["Asked", "compose_prompts", "diversity", "evaluate", "renders", "score", "spread"]
