"""Stage ``views``: an embedder of things without a label, from two pictures of the same thing.

The two pictures differ in place, view and pose, which the subject's mask allows without knowing
what it is; both are cropped, mirrored and recoloured by chance. The loss is NT-Xent (SimCLR,
arXiv:2002.05709, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_mini.metrics import stored
from pcs_mini.metrics.trunk import SIZE, Embedder
from pcs_mini.metrics.views import Views
from pcs_mini.training.loop import Report, Settings
from pcs_mini.training.metrics_loop import Run
from pcs_mini.training.metrics_pictures import (
    Replay,
    View,
    again,
    any_scene,
    degrade,
    stack,
    view_of,
)
from pcs_mini.world.assets import Assets
from pcs_mini.world.population import Population, open_population

TEMPERATURE = 0.1
USES = 3
CONFIG = {"size": 128, "widths": [24, 48, 96, 160], "depths": [1, 1, 1, 1]}
CHECK_SEED = 987_655

Pair = tuple[View, View]


def pair_of(
    rng: np.random.Generator, assets: Assets, population: Population, count: int | None = 1
) -> Pair:
    """Two pictures of the same thing, or with ``count=None`` of the same things."""
    first = any_scene(rng, assets, population, count=count, size=SIZE)
    second = again(rng, assets, population, first, size=SIZE)
    return view_of(assets, first), view_of(assets, second)


def crop(x: Tensor, draws: torch.Generator, smallest: float = 0.7) -> Tensor:
    """Each picture from a window of at least `smallest` of its side, mirrored half of the time."""
    n = len(x)
    scale = smallest + (1 - smallest) * torch.rand(n, generator=draws)
    shift = (torch.rand(n, 2, generator=draws) * 2 - 1) * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(n, generator=draws) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def recolour(x: Tensor, draws: torch.Generator, most: float = 0.25) -> Tensor:
    """Brightness and saturation changed by up to `most`; colours are identity, so hue stays."""
    n = len(x)
    light = 1 + (torch.rand(n, 1, 1, 1, generator=draws) * 2 - 1) * most
    depth = 1 + (torch.rand(n, 1, 1, 1, generator=draws) * 2 - 1) * most
    grey = x.mean(1, keepdim=True)
    return ((grey + (x - grey) * depth) * light).clamp(0, 1)


def ntxent(one: Tensor, other: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Each of `one` ``[n, d]`` finds its own of `other` among all 2n - 1 further pictures."""
    both = torch.cat([one, other]).float()
    logits = (both @ both.T / temperature).fill_diagonal_(-1e4)
    n = len(one)
    partner = torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(logits.device)
    return F.cross_entropy(logits, partner)


def retrieval(
    features: Callable[[Tensor], Tensor],
    assets: Assets,
    population: Population,
    *,
    kind: str,
    things: int = 60,
    views: int = 4,
) -> float:
    """Share of pictures whose nearest other picture shows the same thing, 0..1.

    `things` members of a kind, each in `views` pictures of 128 px at different places and views;
    chance is ``(views - 1) / (things * views - 1)``.
    """
    from pcs_mini.world.scene import draw, references

    rng = np.random.default_rng(CHECK_SEED)
    those = [m for m in population.members if m.kind == kind]
    those = [those[i] for i in rng.permutation(len(those))[:things]]
    if len(those) < 2:
        return float("nan")
    images, names = [], []
    for number, member in enumerate(those):
        first = draw(rng, assets, population, subjects=[member], count=1)
        scenes = [first, *references(rng, assets, first.figures[0], views - 1)]
        images += [s.image for s in scenes]
        names += [number] * views
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        vectors = torch.cat([features(part) for part in pixels.split(64)])
    nearest = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1).tolist()
    return round(sum(names[i] == names[j] for i, j in enumerate(nearest)) / len(names), 4)


def check(
    features: Callable[[Tensor], Tensor], assets: Assets, kinds: Sequence[str] = ()
) -> dict[str, float]:
    """Retrieval of held-out and of trained members, by kind, as far as the archive has them."""
    scores = {}
    for trained in (False, True):
        population = open_population(assets, trained=trained)
        for kind in kinds or ("drawn", "solid", "person"):
            value = retrieval(features, assets, population, kind=kind)
            if value == value:
                scores[f"{'trained' if trained else 'held_out'}_{kind}"] = value
    return scores


def train(settings: Settings, assets: Assets, report: Report) -> Path:
    """Train and return the folder ``out/views``."""
    population = open_population(assets)
    torch.manual_seed(settings.seed)
    net = Embedder(**CONFIG)  # type: ignore[arg-type]
    run = Run("views", settings, {"views": net}, ("project", "stem"), report)
    replay = Replay(
        lambda rng: pair_of(rng, assets, population),
        settings.batch // 2,
        uses=USES,
        seed=settings.seed,
        first=run.first,
        capacity=settings.pool // 2,
    )

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        pairs = replay.next()
        x = stack([first for first, _ in pairs] + [second for _, second in pairs])
        x = degrade(recolour(crop(x, run.draws), run.draws), run.draws).to(run.device)
        one, other = net(x.contiguous(memory_format=torch.channels_last) * 2 - 1).chunk(2)
        return ntxent(one, other), {}

    features = Views(net).image_features
    run.train(loss_of, lambda: check(features, assets, ["drawn"]))
    scores = check(features, assets)
    report(f"views: {scores}")
    return stored.write(
        settings.out / "views",
        net,
        {"net": CONFIG, "scores": scores, "world_sha256": assets.sha256},
    )
