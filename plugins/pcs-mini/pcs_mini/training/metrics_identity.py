"""Stage ``identity``: who an avatar is, under any expression, accessory and place.

A cosine margin over the trained identities (CosFace, arXiv:1801.09414, section 3.1) beside NT-Xent
between two pictures of one; the weights of the margin are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_mini.metrics import stored
from pcs_mini.metrics.identity import Identity
from pcs_mini.metrics.trunk import Embedder
from pcs_mini.training.loop import Report, Settings
from pcs_mini.training.metrics_loop import Run
from pcs_mini.training.metrics_pictures import Replay, degrade, stack
from pcs_mini.training.metrics_views import CONFIG, check, crop, ntxent, pair_of, recolour
from pcs_mini.world.assets import Assets, AssetsError
from pcs_mini.world.population import PERSON, Member, Population, open_population

MARGIN, SCALE = 0.25, 16.0
USES = 3


class Centres(nn.Module):
    """A direction for each trained identity."""

    def __init__(self, identities: int, size: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.randn(identities, size) / size**0.5)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of `features` ``[n, size]`` with the margin off the right cosine."""
        cosine = features.float() @ F.normalize(self.centre.float(), dim=-1).T
        margin = MARGIN * F.one_hot(labels, cosine.shape[1])
        return F.cross_entropy(SCALE * (cosine - margin), labels)


def identities(population: Population) -> list[Member]:
    """The people of a population, in the order of the centres."""
    return sorted(m for m in population.members if m.kind == PERSON)


def train(settings: Settings, assets: Assets, report: Report) -> Path:
    """Train and return the folder ``out/identity``.

    Raises
    ------
    AssetsError
        If the archive holds no trained people.
    """
    people = identities(open_population(assets))
    if len(people) < 2:
        raise AssetsError(f"{assets.path.name} holds no people to train on: use the whole archive")
    number = {member: i for i, member in enumerate(people)}
    population = Population(people)
    torch.manual_seed(settings.seed)
    net = Embedder(**CONFIG)  # type: ignore[arg-type]
    centres = Centres(len(people), CONFIG["size"])  # type: ignore[arg-type]
    modules = {"identity": net, "centres": centres}
    run = Run("identity", settings, modules, ("project", "stem", "centre"), report)
    replay = Replay(
        lambda rng: pair_of(rng, assets, population),
        settings.batch // 2,
        uses=USES,
        seed=settings.seed,
        first=run.first,
        capacity=settings.pool // 2,
    )

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        pairs: Sequence = replay.next()
        x = stack([first for first, _ in pairs] + [second for _, second in pairs])
        x = degrade(recolour(crop(x, run.draws, 0.8), run.draws, 0.15), run.draws).to(run.device)
        features = net(x.contiguous(memory_format=torch.channels_last) * 2 - 1)
        labels = torch.tensor([number[f.members[0]] for f, _ in pairs] * 2, device=run.device)
        one, other = features.chunk(2)
        return centres(features, labels) + 0.5 * _apart(one, other, labels), {}

    features = Identity(net).image_features
    run.train(loss_of, lambda: check(features, assets, [PERSON]))
    scores = check(features, assets, [PERSON])
    report(f"identity: {scores}")
    return stored.write(
        settings.out / "identity",
        net,
        {"net": CONFIG, "scores": scores, "world_sha256": assets.sha256},
    )


def _apart(one: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """NT-Xent over one pair per identity: a second pair of it would count as another."""
    first = {int(w): i for i, w in reversed(list(enumerate(labels[: len(one)].tolist())))}
    chosen = sorted(first.values())
    return ntxent(one[chosen], other[chosen])


__all__ = ["Centres", "identities", "train"]
