"""Stage ``judge``: what stands in each cell of a render, and where the scene plays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_mini.metrics import stored
from pcs_mini.metrics.judge import Judge, JudgeNet, build
from pcs_mini.metrics.trunk import SIZE
from pcs_mini.training.loop import Report, Settings
from pcs_mini.training.metrics_loop import Run
from pcs_mini.training.metrics_pictures import Replay, View, any_scene, degrade, stack, view_of
from pcs_mini.world import scene
from pcs_mini.world.assets import Assets
from pcs_mini.world.backdrops import known
from pcs_mini.world.curriculum import curriculum_population
from pcs_mini.world.grammar import noun_of
from pcs_mini.world.population import Population, core, open_population

COVERED = 0.35
"""A cell belongs to a subject that covers this much of it, or nearly as much as it ever does."""
CELLS_PER_PICTURE = 5
"""Cells whose concept and style are learned, on average; every cell learns whether it has one."""
USES = 3
"""How often a drawn picture comes up."""
CURRICULUM_SHARE = 0.75
"""Share of the scenes that show what a stage shows, where one is given."""
CHECK_SEED = 987_654
"""Far from any training seed."""


def names_of(assets: Assets, population: Population) -> dict[str, list[str]]:
    """Trained concepts, style words and places, in the order of the heads."""
    return {
        "concept": sorted({noun_of(m.concept) for m in population.members}),
        "style": sorted({m.style for m in population.members}),
        "place": sorted(set(known(assets))),
    }


def owners(views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """Which subject has each cell: index ``[n, 64]``, -1 for none; and a weight to sample it by.

    The weights of a subject's cells sum to one, so that a small one is learned as well as a large
    one.
    """
    index = np.full((len(views), views[0].cells.shape[1] * views[0].cells.shape[2]), -1)
    weight = np.zeros(index.shape, np.float32)
    for i, view in enumerate(views):
        cover = view.cells.reshape(len(view.cells), -1) / 255
        best = cover.argmax(0)
        for k, row in enumerate(cover):
            covered = (best == k) & (row >= min(COVERED, 0.8 * float(row.max()))) & (row > 0.05)
            index[i, covered] = k
            weight[i, covered] = 1 / max(1, covered.sum())
    return torch.from_numpy(index), torch.from_numpy(weight)


def loss_on(
    net: JudgeNet,
    views: Sequence[View],
    names: dict[str, list[str]],
    draws: torch.Generator,
    lookup: dict[str, dict[str, int]],
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropies of subject or not, concept, style and place, added up."""
    device = net.subject_head.weight.device
    x = degrade(stack(views), draws).to(device, memory_format=torch.channels_last) * 2 - 1
    owner, weight = owners(views)
    cells = net.trunk(x)
    subject = net.subject_head(cells).flatten(1).float()
    loss_subject = F.binary_cross_entropy_with_logits(subject, (owner >= 0).float().to(device))
    count = min(CELLS_PER_PICTURE * len(views), int((weight > 0).sum()))
    picked = torch.multinomial(weight.flatten(), count, generator=draws)
    members = [views[c // 64].members[int(owner.flatten()[c])] for c in picked.tolist()]
    each = cells.flatten(2).mT.reshape(-1, cells.shape[1])[picked.to(device)]
    concept = torch.tensor([lookup["concept"][noun_of(m.concept)] for m in members], device=device)
    style = torch.tensor([lookup["style"][m.style] for m in members], device=device)
    place = torch.tensor([lookup["place"][v.place] for v in views], device=device)
    said = net.concept_head(each).float()
    loss = (
        F.cross_entropy(said, concept)
        + 0.5 * F.cross_entropy(net.style_head(each).float(), style)
        + 0.5 * F.cross_entropy(net.places(cells).float(), place)
        + loss_subject
    )
    return loss, {"cell_accuracy": float((said.argmax(1) == concept).float().mean())}


def check(judge: Judge, assets: Assets, population: Population, n: int = 400) -> dict[str, float]:
    """Shares of `n` fresh scenes of 128 px, drawn as the world draws them, that are read right."""
    rng = np.random.default_rng(CHECK_SEED)
    scenes = [scene.draw(rng, assets, population) for _ in range(n)]
    right: dict[str, list[bool]] = {}
    for at in range(0, n, 50):
        some = scenes[at : at + 50]
        pixels = torch.from_numpy(np.stack([s.image for s in some]))
        reading = judge.read(pixels.permute(0, 3, 1, 2).float() / 255)
        expected = [[noun_of(f.concept) for f in s.figures] for s in some]
        correct = judge.concepts_match(reading, expected)
        styles, places = judge.top("style", reading), judge.top("place", reading)
        for s, ok, style, place in zip(some, correct, styles, places, strict=True):
            right.setdefault(f"concepts_{len(s.figures)}", []).append(ok)
            right.setdefault("concepts", []).append(ok)
            if len(s.figures) == 1:
                if s.figures[0].concept in core():
                    right.setdefault("core_1", []).append(ok)
                right.setdefault("style", []).append(style == s.figures[0].style)
            right.setdefault("place", []).append(place == s.place)
    return {key: round(sum(values) / len(values), 4) for key, values in sorted(right.items())}


def train(settings: Settings, assets: Assets, report: Report, curriculum: int = 0) -> Path:
    """Train and return the folder ``out/judge``; its configuration holds what it knows and scores.

    With a ``stage`` (see `world.curriculum`) most scenes show what that stage shows, so that
    the judge is surest of what the denoiser was taught; it keeps the names of the whole world.
    """
    population = open_population(assets)
    often = curriculum_population(population, curriculum)
    names = names_of(assets, population)
    lookup = {what: {name: i for i, name in enumerate(those)} for what, those in names.items()}
    torch.manual_seed(settings.seed)
    net = build(names)
    run = Run("judge", settings, {"judge": net}, ("_head", "stem"), report)
    replay = Replay(
        lambda rng: view_of(
            assets,
            any_scene(
                rng, assets, often if rng.random() < CURRICULUM_SHARE else population, size=SIZE
            ),
        ),
        settings.batch,
        uses=USES,
        seed=settings.seed,
        first=run.first,
        capacity=settings.pool,
    )
    run.train(
        lambda: loss_on(net, replay.next(), names, run.draws, lookup),
        lambda: check(Judge(net, names), assets, often, 200),
    )
    scores = check(Judge(net, names), assets, population, 1000)
    report(f"judge: {scores}")
    if curriculum:
        taught = check(Judge(net, names), assets, often, 1000)
        report(f"judge, stage {curriculum}: {taught}")
        scores |= {f"stage_{key}": value for key, value in taught.items()}
    return stored.write(
        settings.out / "judge",
        net,
        {"names": names, "scores": scores, "world_sha256": assets.sha256},
    )
