"""Held-out members of the world, drawn to order: benchmark subjects whose truth is known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from pcs_core.errors import nearest
from pcs_mini.world import backdrops
from pcs_mini.world.assets import Assets, AssetsError, open_assets
from pcs_mini.world.population import Member, Population, members, open_population
from pcs_mini.world.pose import Pose, pose_of
from pcs_mini.world.scene import Scene, draw, draw_place

SIZE = 128


@dataclass(frozen=True)
class Picture:
    """One picture and its truth."""

    image: Tensor
    """``[3, h, w]`` in 0..1."""
    masks: tuple[Tensor, ...]
    """Where each subject is, ``[1, h, w]`` in 0..1, in the order they were asked for."""
    members: tuple[str, ...]
    place: str
    caption: str
    points: tuple[Tensor | None, ...]
    """``[5, 2]`` of each person, 0..1 of the picture, -9 where a point is not drawn."""


class Studio:
    """Draws members that no training stage draws. A member is named as in ``dog/outlined``,
    ``backpack/solid`` or ``person/cartoon/cartoon_00``; the same seed draws the same picture.
    """

    def __init__(self, assets: Assets | None = None) -> None:
        self._given = assets

    @cached_property
    def assets(self) -> Assets:
        """The archive given, or the installed world, or the slice of it that is always there."""
        return self._given or open_assets()

    @cached_property
    def _held_out(self) -> dict[str, Member]:
        return {name_of(m): m for m in open_population(self.assets, trained=False).members}

    @cached_property
    def _all(self) -> dict[str, Member]:
        return {name_of(m): m for m in members(self.assets)}

    def names(self, kind: str | None = None, *, trained: bool = False) -> list[str]:
        """Names of the held-out members (or the trained ones): drawn, solid, person, or all."""
        table = self._all if trained else self._held_out
        return [
            n
            for n, m in table.items()
            if kind in (None, m.kind) and not (trained and n in self._held_out)
        ]

    def phrase(self, place: str) -> str:
        """How a caption says that something is at `place`."""
        return backdrops.phrase(place)

    def category(self, name: str) -> str:
        """The kind of thing a member is, as in ``animal``."""
        member = self._member(name)
        return "person" if member.kind == "person" else self.assets.category(member.concept)

    def source(self, name: str) -> str:
        """Who drew a member, and its licence, in words."""
        member = self._member(name)
        if member.kind == "solid":
            return f"a model by {self.assets.index['solids'][member.concept]['credit']}"
        about = next(s for s in self.assets.sources if s.get("style") == member.style)
        named = f"{about['package']} {about['version']} by {about['author']}"
        return f"{named} ({about['licence']})"

    def picture(
        self,
        names: Sequence[str],
        *,
        seed: int,
        place: str | None = None,
        relation: str | None = None,
        size: int = SIZE,
    ) -> Picture:
        """One picture of one member, or of two in a relation, in its own colours and without a hat.

        Raises
        ------
        AssetsError
            If the installed world has no such member.
        """
        chosen = [self._member(name) for name in names]
        rng = np.random.default_rng((seed, zlib.crc32("|".join(names).encode())))
        poses = [self._pose(rng, member) for member in chosen]
        where = place or draw_place(rng, self.assets, chosen)
        return self._picture(rng, names, chosen, poses, where, relation, size)

    def references(
        self, name: str, count: int = 5, *, seed: int = 0, size: int = SIZE
    ) -> list[Picture]:
        """`count` pictures of one member, each at another place and in another pose."""
        member = self._member(name)
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        places: list[str] = []
        pose: Pose | None = None
        pictures = []
        for _ in range(count):
            pose = self._pose(rng, member, pose)
            places.append(draw_place(rng, self.assets, [member], avoid=places))
            pictures.append(self._picture(rng, [name], [member], [pose], places[-1], None, size))
        return pictures

    def _member(self, name: str) -> Member:
        member = self._all.get(name)
        if member is None:
            raise AssetsError(
                f"the installed world ({self.assets.path.name}) has no {name!r}"
                f"{nearest(name, self._all)}; the whole world comes with pcs-mini-world"
            )
        return member

    def _pose(self, rng: np.random.Generator, member: Member, last: Pose | None = None) -> Pose:
        if member.kind != "drawn":
            return pose_of(rng, self.assets, member, unlike=last)
        flipped = bool(rng.random() < 0.5) if last is None else not last.flipped
        return Pose(flipped=flipped, tilt=float(np.clip(rng.normal(0, 5), -12, 12)))

    def _picture(
        self,
        rng: np.random.Generator,
        names: Sequence[str],
        chosen: Sequence[Member],
        poses: Sequence[Pose],
        place: str,
        relation: str | None,
        size: int,
    ) -> Picture:
        scene: Scene = draw(
            rng,
            self.assets,
            Population(chosen),
            size=size,
            subjects=chosen,
            poses=poses,
            place=place,
            relation=relation or "",
            count=len(chosen),
        )
        figures = scene.figures
        return Picture(
            image=torch.from_numpy(scene.image.copy()).permute(2, 0, 1).float() / 255,
            masks=tuple(torch.from_numpy(f.mask.copy())[None].float() / 255 for f in figures),
            members=tuple(names),
            place=place,
            caption=scene.caption,
            points=tuple(
                None
                if f.points is None
                else torch.from_numpy(np.nan_to_num(f.points, nan=-9.0)).float()
                for f in figures
            ),
        )


def name_of(member: Member) -> str:
    """The name of a member, as in ``dog/outlined``."""
    parts = (member.concept, member.style, member.identity)
    return "/".join(part for part in parts if part)


@cache
def studio() -> Studio:
    """The studio of this process (dataset ``mini.held-out``)."""
    return Studio()
