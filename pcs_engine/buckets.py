"""Pictures of several sizes in one fit: each as whole as the backbone's sizes allow, a size a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import ALL, RENDERED, BranchEdit, PixelEdit
from pcs_core.data.later import Later, entries_of
from pcs_core.errors import CapabilityError, RecipeError
from pcs_engine.prepare import fit_image, placed
from pcs_engine.sizes import place_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Example, Features, Fusion, Phase, Recipe, Subject
    from pcs_engine.pools import Pool

Size = tuple[int, int]
"""Height and width in pixels."""
SIDES = 16
"""Steps from one size to the next, of the shorter side: as 64 pixels of 1024 are."""
LONGEST = 2
"""Times that a side may be longer, or shorter, than that of the fit's pictures."""
SUBJECT = "subject"


def bucket_sizes(size: Size, backbone: Backbone) -> tuple[Size, ...]:
    """Return the sizes that pictures may have in place of ``size``: as many pixels or fewer, in other shapes.

    Sides are multiples of what the backbone needs, and of a :data:`SIDES`-th of the shorter side.

    Raises
    ------
    CapabilityError
        The backbone has pictures of one size alone.
    """
    multiple: Any = getattr(backbone, "size_step", None)
    if multiple is None or getattr(backbone, "at", None) is None:
        raise CapabilityError(
            f"backbone {backbone.card.id!r} has pictures of {size[1]}x{size[0]} alone: leave the buckets out"
        )
    unit = multiple()
    step = unit * max(1, -(-min(size) // (SIDES * unit)))
    largest = getattr(backbone, "largest_side", lambda: None)() or LONGEST * max(size)
    sizes = {size}
    for height in range(-(-min(size) // (LONGEST * step)) * step, LONGEST * max(size) + 1, step):
        width = size[0] * size[1] // (height * step) * step
        if width and max(height, width) <= min(largest, LONGEST * max(size)):
            sizes |= {(height, width), (width, height)}
    return tuple(sorted(sizes))


def bucket_of(shape: Size, sizes: Sequence[Size]) -> Size:
    """Return the size that shows most of a picture of ``shape``; of two alike that of more pixels."""
    aspect = shape[1] / shape[0]

    def shown(size: Size) -> tuple[float, int]:
        ratio = size[1] / size[0] / aspect
        return round(min(ratio, 1 / ratio), 9), size[0] * size[1]

    return max(sizes, key=shown)


def picture_sizes(subject: Subject, backbone: Backbone) -> tuple[Size, ...]:
    """Return the bucket of each picture or clip of ``subject``."""
    sizes = bucket_sizes((backbone.card.size[0], backbone.card.size[1]), backbone)
    return tuple(bucket_of((i.shape[-2], i.shape[-1]), sizes) for i in entries_of(subject.images))


def bucket_line(sizes: Sequence[Size]) -> str:
    """Return how many pictures go to which size, as a sentence."""
    counted = sorted(Counter(sizes).items(), key=lambda one: (-one[1], one[0]))
    parts = [f"{count} at {width} x {height}" for (height, width), count in counted]
    return f"pictures by their shape: {', '.join(parts)}; a batch holds one size"


def check_buckets(recipe: Recipe, phases: Sequence[Phase]) -> None:
    """Refuse a recipe whose phases need all pictures at one size.

    Raises
    ------
    RecipeError
        A phase has a size of its own, renders its pictures, or shows all of them in each step.
    """
    for phase in phases:
        what = ""
        if phase.size:
            what = "has a size of its own"
        elif RENDERED in phase.batch:
            what = "renders its pictures"
        elif ALL in phase.batch.values():
            what = "shows all pictures in each step"
        if what:
            raise RecipeError(
                f"{recipe.id}: phase {phase.name!r} {what}, which pictures of several sizes do not go with: "
                "leave the buckets out"
            )


def check_one_size(fusion: Fusion) -> None:
    """Refuse what a technique plugs in at one size of pictures.

    Raises
    ------
    CapabilityError
        Names the use.
    """
    edits = [*fusion.of(BranchEdit), *fusion.of(PixelEdit)]
    owners = [edit.owner for edit in edits]
    owners += [row.role for row in fusion.rows if row.latents == "trajectory"]
    if owners:
        raise CapabilityError(
            f"{owners[0]!r} is of pictures of one size: leave the buckets out (--buckets), --crop none shows "
            "pictures whole"
        )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Examples of one ``size``, encoded: a pool a subject. ``share`` is how often it is drawn."""

    size: Size
    pools: Sequence[Pool]
    share: float


def draw_bucket(buckets: Sequence[Bucket], rng: Generator) -> Bucket:
    """Return the bucket of a batch: each as often as its pictures are many."""
    shares = torch.tensor([bucket.share for bucket in buckets], dtype=torch.float64)
    return buckets[int(torch.multinomial(shares, 1, generator=rng))]


class BucketExamples:
    """Examples as they are in each bucket, and what was cut for one, so that it is encoded once."""

    def __init__(self) -> None:
        self._cut: dict[tuple[int, Size], tuple[Any, Any]] = {}

    def of(
        self, features: Sequence[Features], sizes: Sequence[Sequence[Size]]
    ) -> Mapping[Size, list[Features]]:
        """Return size -> the features of each subject with the examples that a batch of it is drawn from.

        References and what is made of them stand in the bucket of their own size; pictures of another role,
        as those of a class, in every bucket, cut to it.
        """
        every = sorted({size for row in sizes for size in row})
        return {
            size: [
                replace(
                    f,
                    examples=tuple(
                        self._at(e, size) for e in f.examples if size in _buckets(e, every)
                    ),
                )
                for f in features
            ]
            for size in every
        }

    def _at(self, example: Example, size: Size) -> Example:
        if tuple(example.picture.shape[-2:]) == size:
            return example
        mask, regions = example.mask, example.regions
        cut = example.with_(
            image=self._image(example.picture, size),
            mask=None if mask is None else fit_image(mask, size, "bilinear"),
            regions={k: fit_image(r, size, "bilinear") for k, r in regions.items()},
            extra={},
        )
        where = placed(cut, example.picture, size).extra
        return cut.with_(extra={**example.extra, **where})

    def _image(self, image: Any, size: Size) -> Any:
        key = place_of(image), size
        if key not in self._cut:
            shape = (*image.shape[:-2], *size)
            # the picture too, so that nothing else comes to stand at its place
            self._cut[key] = image, Later(shape, lambda: fit_image(_read(image), size))
        return self._cut[key][1]


def _read(picture: Any) -> Tensor:
    """Return a picture; cut ones are made when they are encoded, and not kept."""
    tensor: Tensor = picture.read() if isinstance(picture, Later) else picture
    return tensor


def _buckets(example: Example, sizes: Sequence[Size]) -> Sequence[Size]:
    """Return the sizes at which an example is shown."""
    shape = (example.picture.shape[-2], example.picture.shape[-1])
    return [shape] if example.role == SUBJECT and shape in sizes else sizes


def share_of(features: Sequence[Features]) -> float:
    """Return how often a bucket is drawn: the references in it, each as often as it repeats."""
    examples = [e for f in features for e in f.examples]
    return float(sum(e.repeats for e in examples if e.role == SUBJECT))
