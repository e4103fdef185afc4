"""Fits of pictures of several sizes: each in the bucket of its shape, with its mask; a batch holds one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Example, Features, Phase, Subject
from pcs_core.errors import CapabilityError, InputError, PcsError, RecipeError
from pcs_engine import checkpoints as checkpoints_module
from pcs_engine import progress as progress_module
from pcs_engine.buckets import bucket_of, bucket_sizes, picture_sizes
from pcs_engine.cropping import crop_subject
from pcs_engine.prepare import ask
from pcs_engine.run import EngineRun
from pcs_testing import make_recipe
from pcs_testing.probe import Probe

SHAPES = ((20, 60), (60, 20), (40, 40), (24, 60), (21, 60))
STEPS: list[Any] = []


class Watch(Technique):
    """Notes what a step is drawn from."""

    id = "test.buckets.watch"

    @hookimpl
    def extract(self, moment: str) -> Features | None:
        """Give pictures of another role, at the size of the fit."""
        if moment != "start":
            return None
        pictures = (torch.full((3, 32, 32), 0.25 * n) for n in (1, 2))
        return Features(
            examples=tuple(Example(image=p, captions=("a dog",), role="prior") for p in pictures)
        )

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        """Keep the shape of the latents, the size that the backbone has, and the roles."""
        STEPS.append((tuple(step.noisy.shape[-2:]), run.image_size, step.batch.roles))


class NeedsOneSize(Technique):
    """Stacks the references, as techniques of one size do."""

    id = "test.buckets.stacks"

    @hookimpl
    def extract(self, run: Any, moment: str) -> Features | None:
        """Stack them."""
        if moment != "start":
            return None
        return Features(tensors={"all": torch.stack([e.image for e in run.features.examples])})


def subject(shapes: tuple[tuple[int, int], ...] = SHAPES, **more: Any) -> Subject:
    rng = torch.Generator().manual_seed(0)
    images = tuple(torch.rand(3, *shape, generator=rng) for shape in shapes)
    return Subject("rex", (Concept("dog", "<rex>", "dog"),), images, **more)


def recipe(*uses: Any, steps: int = 12, batch: Any = None) -> Any:
    phase = Phase("all", steps, batch=batch or {"subject": 2}, lr={"*": 1e-2}, train=("*",))
    return make_recipe([*uses, Probe()], phase)


def test_buckets_have_no_more_pixels_and_sides_of_the_backbones_steps() -> None:
    backbone: Any = open_backbone("tiny")
    sizes = bucket_sizes((32, 32), backbone)
    assert (32, 32) in sizes
    assert (16, 64) in sizes
    assert (64, 16) in sizes
    assert all(h % 4 == w % 4 == 0 and h * w <= 32 * 32 for h, w in sizes)
    assert {(w, h) for h, w in sizes} == set(sizes)
    assert bucket_of((100, 100), sizes) == (32, 32)
    assert bucket_of((100, 1000), sizes) == (16, 64)
    assert bucket_of((30, 20), sizes)[0] > bucket_of((30, 20), sizes)[1]


def test_a_batch_holds_one_size_and_class_pictures_follow(backbone: Backbone) -> None:
    STEPS.clear()
    usual = backbone.card.size
    given = subject()
    fit(recipe(Watch(), batch={"subject": 2, "prior": 1}), given, backbone, buckets=True)
    assert backbone.card.size == usual
    sizes = set(picture_sizes(given, backbone))
    seen = {size for _, size, _ in STEPS}
    assert len(seen) > 1
    assert seen <= sizes
    scale = usual[0] // backbone.latent_shape[-1]
    assert all(shape == (h // scale, w // scale) for shape, (h, w), _ in STEPS)
    assert all(roles == ("subject", "subject", "prior") for *_, roles in STEPS)


def test_each_picture_is_shown_whole_with_its_mask(backbone: Backbone) -> None:
    left = torch.zeros(1, 20, 60)
    left[..., :30] = 1
    given = subject(masks={"dog": (left, *[None] * 4)})
    sizes = picture_sizes(given, backbone)
    cropped, said = crop_subject(given, sizes)
    assert len(said) < len(crop_subject(given, (32, 32))[1])
    run = EngineRun(recipe(), backbone, names=["rex"], concepts=[given.concepts])
    (answer,) = ask(run, [cropped], [sizes])
    shapes = [tuple(e.image.shape[-2:]) for e in answer.references]
    assert shapes == list(sizes)
    assert [e.index for e in answer.references] == [0, 1, 2, 3, 4]
    region = answer.references[0].regions["mask.concept.0"]
    assert tuple(region.shape[-2:]) == shapes[0]
    assert float(region.mean()) == pytest.approx(0.5, abs=0.03)


def test_a_fit_of_buckets_goes_on_as_it_would_have(
    backbone: Backbone, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 1)
    (whole,) = fit(recipe(), subject(), backbone, buckets=True)

    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.done >= 7:
            raise Killed

    with pytest.raises(Killed):
        fit(recipe(), subject(), backbone, work=tmp_path, watch=[kill], buckets=True)
    with pytest.raises(PcsError, match="buckets"):
        fit(recipe(), subject(), backbone, work=tmp_path, resume=True)
    (resumed,) = fit(recipe(), subject(), backbone, work=tmp_path, resume=True, buckets=True)
    assert all(torch.equal(t, whole.tensors[k]) for k, t in resumed.tensors.items())
    assert whole.extra["buckets"]
    assert whole.backbone.size == (32, 32)


def test_pictures_of_one_shape_are_a_bucket_of_that_shape(backbone: Backbone) -> None:
    STEPS.clear()
    alike = subject(shapes=((20, 60), (20, 60)))
    fit(recipe(Watch(), NeedsOneSize(), steps=2), alike, backbone, buckets=True)
    assert len({shape for shape, *_ in STEPS}) == 1


def test_what_needs_one_size_is_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match=r"test\.buckets\.stacks.*leave the buckets out"):
        fit(recipe(NeedsOneSize()), subject(), backbone, buckets=True)
    with pytest.raises(RecipeError, match="'words?' shows all pictures|shows all pictures"):
        fit(recipe(batch={"subject": -1}), subject(), backbone, buckets=True)
    with pytest.raises(InputError, match="buckets=3"):
        fit(recipe(), subject(), backbone, buckets=3)  # type: ignore[arg-type]


def test_a_fit_may_have_another_size(backbone: Backbone) -> None:
    STEPS.clear()
    usual = backbone.card.size
    (made,) = fit(recipe(Watch(), steps=2), subject(), backbone, size=(24, 40))
    assert {size for _, size, _ in STEPS} == {(24, 40)}
    assert backbone.card.size == usual == made.backbone.size
    assert made.extra["size"] == [24, 40]
    for wrong in ((24,), (24, 33), "24x40", (0, 8)):
        with pytest.raises(PcsError, match="size|multiples"):
            fit(recipe(steps=2), subject(), backbone, size=wrong)  # type: ignore[arg-type]
    assert backbone.card.size == usual
