"""Pictures for the metrics: drawn once at 64 px, used a few times, degraded as a decoder would."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pcs_mini.metrics.trunk import CELLS, SIZE
from pcs_mini.world import grammar, scene
from pcs_mini.world.assets import Assets
from pcs_mini.world.backdrops import phrase
from pcs_mini.world.population import Member, Population
from pcs_mini.world.pose import pose_of
from pcs_mini.world.scene import Scene

EVENLY = 0.5
"""Share of scenes whose first subject is any member, each as likely; the others follow the world."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class View:
    """One picture, with what a metric may learn from it."""

    image: NDArray[np.uint8]
    """``[64, 64, 3]``."""
    cells: NDArray[np.uint8]
    """``[subjects, 8, 8]``: how much of each cell is that subject, 255 = all."""
    members: tuple[Member, ...]
    place: str
    caption: str
    words: frozenset[str]
    """Everything that a caption could truly say of it."""
    instance: str
    """The same for pictures of the same individual things."""


class Replay(Generic[Item]):
    """A stream of batches in which every drawn item comes up a few times.

    What batch `step` holds depends on the seed and the step alone: after a resumption the items of
    the last steps are drawn once more.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], Item],
        batch: int,
        *,
        uses: int,
        seed: int,
        first: int = 0,
        capacity: int = 20_000,
    ) -> None:
        self.draw, self.batch, self.seed, self.step = draw, batch, seed, first
        self.fresh = max(1, batch // uses)
        self.items: deque[Item] = deque(maxlen=max(capacity, self.fresh))
        for before in range(max(0, first - capacity // self.fresh), first):
            self.items.extend(self._drawn(before))

    def _drawn(self, step: int) -> list[Item]:
        rng = np.random.default_rng((self.seed, 0, step))
        return [self.draw(rng) for _ in range(self.fresh)]

    def __iter__(self) -> Iterator[list[Item]]:
        while True:
            yield self.next()

    def next(self) -> list[Item]:
        """The items of the next step: some new ones, the others from those drawn before."""
        fresh = self._drawn(self.step)
        self.items.extend(fresh)
        rng = np.random.default_rng((self.seed, 1, self.step))
        again = rng.integers(len(self.items), size=self.batch - len(fresh))
        self.step += 1
        return [*fresh, *(self.items[i] for i in again)]


def any_scene(
    rng: np.random.Generator,
    assets: Assets,
    population: Population,
    *,
    count: int | None = None,
    size: int = SIZE,
) -> Scene:
    """A scene of the population in which rare members come up more often than in the world."""
    first: list[Member] = []
    if rng.random() < EVENLY:
        first = [population.members[rng.integers(len(population.members))]]
    return scene.draw(rng, assets, population, subjects=first, count=_count(rng, count), size=size)


def again(
    rng: np.random.Generator,
    assets: Assets,
    population: Population,
    first: Scene,
    *,
    size: int = SIZE,
) -> Scene:
    """The same individual things once more: another place, another view, another arrangement."""
    poses = [pose_of(rng, assets, f.member, colour=f.colour, unlike=f.pose) for f in first.figures]
    members = [f.member for f in first.figures]
    place = scene.draw_place(
        rng, assets, members, {pose.colour for pose in poses}, avoid=[first.place]
    )
    return scene.draw(
        rng,
        assets,
        population,
        subjects=members,
        poses=poses,
        place=place,
        relation=first.relation if rng.random() < 0.5 else None,
        count=len(members),
        size=size,
    )


def view_of(assets: Assets, drawn: Scene) -> View:
    """What the metrics keep of a scene of 64 px."""
    side = SIZE // CELLS
    cells = [
        f.mask.reshape(CELLS, side, CELLS, side).mean((1, 3)).astype(np.uint8)
        for f in drawn.figures
    ]
    return View(
        image=drawn.image,
        cells=np.stack(cells),
        members=tuple(f.member for f in drawn.figures),
        place=drawn.place,
        caption=drawn.caption,
        words=frozenset(_sayable(assets, drawn)),
        instance=" & ".join(sorted(f.instance for f in drawn.figures)),
    )


def stack(views: Sequence[View]) -> Tensor:
    """``[n, 3, 64, 64]`` in 0..1, channels last in memory."""
    pixels = torch.from_numpy(np.stack([view.image for view in views]))
    return pixels.permute(0, 3, 1, 2).float() / 255


def degrade(x: Tensor, draws: torch.Generator) -> Tensor:
    """Blur, noise and fade some pictures, as a decoder does; ``[n, 3, h, w]`` in 0..1."""
    n = len(x)

    def share() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=draws)

    x = x.contiguous()
    soft = F.pad(x, (1, 1, 1, 1), mode="replicate")
    soft = (soft[..., :-2] + soft[..., 1:-1] + soft[..., 2:]) / 3
    soft = (soft[..., :-2, :] + soft[..., 1:-1, :] + soft[..., 2:, :]) / 3
    x = x.lerp(soft, share() * (share() < 0.6))
    coarse = torch.randn(n, 3, x.shape[2] // 2, x.shape[3] // 2, generator=draws) * share()
    fine = torch.randn(x.shape, generator=draws) * share()
    x = x + 0.04 * (F.interpolate(coarse, scale_factor=2) + fine)
    contrast = 1 + (share() - 0.5) * 0.3
    return ((x - 0.5) * contrast + 0.5 + (share() - 0.5) * 0.12).clamp(0, 1)


def _count(rng: np.random.Generator, count: int | None) -> int:
    if count is not None:
        return count
    return 1 + int(np.searchsorted(np.cumsum(scene.COUNTS[:2]), rng.random()))


def _sayable(assets: Assets, drawn: Scene) -> set[str]:
    """Words of everything that is true of a scene and that the grammar knows."""
    texts = [phrase(drawn.place)]
    for figure in drawn.figures:
        said = scene.mention(assets, figure.member, figure.pose)
        texts += [said.noun, said.short, said.category, said.style, said.colour, said.expression]
        texts += [said.view, *said.traits, *said.accessories]
    texts += grammar.RELATIONS.get(drawn.relation, ())
    return {word for text in texts for word in text.split()}
