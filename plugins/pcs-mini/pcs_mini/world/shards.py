"""Scenes rendered ahead into a folder, for training: resumable, and seeded by index.

Scene i of a seed is the same whoever renders it, in however many processes. A folder holds
``world.json`` (what it was made with) and, for each shard of a thousand scenes or so, the arrays
``<shard>.images.npy`` and ``<shard>.masks.npy`` and one line of JSON a scene in ``<shard>.jsonl``,
which is written last.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcs_core.errors import InputError
from pcs_mini.world.assets import Assets, open_assets
from pcs_mini.world.population import Population, open_population
from pcs_mini.world.scene import SIZE, Figure, Scene, draw

SHARD = 1024
"""Scenes in a shard."""
_ABOUT = "world.json"


@dataclass(frozen=True)
class Plan:
    """What decides the content of a folder."""

    seed: int
    size: int
    shard: int
    sha256: str
    """Of the archive of the world."""


def scene_at(
    assets: Assets,
    population: Population,
    seed: int,
    index: int,
    *,
    size: int = SIZE,
    **settings: Any,
) -> Scene:
    """Scene number `index` of a seed; `settings` go to `draw`."""
    return draw(np.random.default_rng((seed, index)), assets, population, size=size, **settings)


def render(
    folder: Path,
    n: int,
    *,
    seed: int = 0,
    size: int = SIZE,
    shard: int = SHARD,
    archive: Path | None = None,
    processes: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Render at least `n` scenes into `folder`, in whole shards; what is there already is kept.

    Raises
    ------
    InputError
        If the folder was begun with another seed, size, shard length or archive.
    """
    assets = open_assets(archive)
    plan = Plan(seed, size, shard, assets.sha256)
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / _ABOUT
    if about.exists():
        recorded = json.loads(about.read_text(encoding="utf-8"))
        if recorded != asdict(plan):
            differ = ", ".join(k for k, v in asdict(plan).items() if recorded.get(k) != v)
            raise InputError(
                f"{folder} was rendered with another {differ}: choose an empty folder, or remove it"
            )
    else:
        _write(about, json.dumps(asdict(plan), indent=1).encode())
    total = -(-n // shard)
    missing = [i for i in range(total) if not _lines(folder, i).exists()]
    report(f"{folder}: {total - len(missing)} of {total} shards are there")
    jobs = [(folder, number, plan, assets.path) for number in missing]
    if processes <= 1:
        for job in jobs:
            report(_render_shard(job))
        return folder
    # spawned, not forked: a fork would copy the locks of whatever threads there are
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs) or 1)) as pool:
        for line in pool.imap_unordered(_render_shard, jobs):
            report(line)
    return folder


def _render_shard(job: tuple[Path, int, Plan, Path]) -> str:
    folder, number, plan, archive = job
    assets, population = _opened(archive)
    images = np.empty((plan.shard, plan.size, plan.size, 3), np.uint8)
    masks = np.empty((plan.shard, plan.size, plan.size), np.uint8)
    lines = []
    for at in range(plan.shard):
        scene = scene_at(assets, population, plan.seed, number * plan.shard + at, size=plan.size)
        images[at], masks[at] = scene.image, owners(scene)
        lines.append(json.dumps(describe(scene), ensure_ascii=False))
    stem = _stem(number)
    _write_array(folder / f"{stem}.images.npy", images)
    _write_array(folder / f"{stem}.masks.npy", masks)
    _write(_lines(folder, number), ("\n".join(lines) + "\n").encode())
    return f"shard {number} done"


_OPEN: dict[Path, tuple[Assets, Population]] = {}
"""One archive a process: opening it and listing its population takes longer than a scene."""


def _opened(archive: Path) -> tuple[Assets, Population]:
    if archive not in _OPEN:
        _OPEN.clear()
        assets = open_assets(archive)
        _OPEN[archive] = (assets, open_population(assets))
    return _OPEN[archive]


def owners(scene: Scene) -> NDArray[np.uint8]:
    """Whose each pixel is, ``[size, size]``: 0 = the place, k = the k-th figure of the caption."""
    owner = np.zeros(scene.image.shape[:2], np.uint8)
    for number, figure in enumerate(scene.figures, 1):
        owner[figure.mask > 127] = number
    return owner


def describe(scene: Scene) -> dict[str, Any]:
    """The scene without its pixels, as plain JSON values."""
    return {
        "caption": scene.caption,
        "place": scene.place,
        "relation": scene.relation,
        "figures": [_describe(figure) for figure in scene.figures],
    }


def _describe(figure: Figure) -> dict[str, Any]:
    points = figure.points
    return {
        "kind": figure.kind,
        "concept": figure.concept,
        "style": figure.style,
        "identity": figure.identity,
        "variation": figure.variation,
        "colour": figure.colour,
        "accessories": list(figure.accessories),
        "box": [round(v, 4) for v in figure.box],
        "camera": figure.camera,
        "points": None
        if points is None
        else [None if np.isnan(p).any() else [round(float(v), 4) for v in p] for p in points],
    }


class Shards(Sequence[dict[str, Any]]):
    """A rendered folder: item i is what is known of scene i; pictures are read from disk."""

    def __init__(self, folder: Path) -> None:
        about = folder / _ABOUT
        if not about.exists():
            raise InputError(
                f"{folder} holds no rendered scenes: `pcs mini world render` makes them"
            )
        self.folder = folder
        self.plan = Plan(**json.loads(about.read_text(encoding="utf-8")))
        self._numbers = sorted(int(p.stem) for p in folder.glob("*.jsonl"))
        self._arrays: dict[tuple[int, str], NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._numbers) * self.plan.shard

    def __getitem__(self, at: Any) -> Any:
        return self._facts[at]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._facts)

    @property
    def captions(self) -> list[str]:
        """The caption of every scene."""
        return [facts["caption"] for facts in self._facts]

    def images(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """The pictures of these scenes, ``[n, size, size, 3]``."""
        return self._take(indices, "images")

    def masks(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Whose each pixel is, ``[n, size, size]``; see `owners`."""
        return self._take(indices, "masks")

    def _take(self, indices: Sequence[int], what: str) -> NDArray[np.uint8]:
        rows = []
        for index in indices:
            part, row = divmod(index, self.plan.shard)
            if not 0 <= index < len(self):
                raise IndexError(f"{self.folder} holds scenes 0 to {len(self) - 1}, not {index}")
            rows.append(self._array(part, what)[row])
        return np.stack(rows)

    def _array(self, part: int, what: str) -> NDArray[np.uint8]:
        if (part, what) not in self._arrays:
            path = self.folder / f"{_stem(self._numbers[part])}.{what}.npy"
            self._arrays[part, what] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._arrays[part, what]

    @cached_property
    def _facts(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for number in self._numbers
            for line in _lines(self.folder, number).read_text(encoding="utf-8").splitlines()
        ]


def _stem(number: int) -> str:
    return f"{number:05d}"


def _lines(folder: Path, number: int) -> Path:
    return folder / f"{_stem(number)}.jsonl"


def _write(path: Path, data: bytes) -> None:
    """Write beside, then rename: a shard is whole or not there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)


def _write_array(path: Path, array: NDArray[np.uint8]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    beside.replace(path)
