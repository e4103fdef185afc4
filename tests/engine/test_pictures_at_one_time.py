"""However many pictures a fit has, no more than are encoded at a time are in memory at once."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_core import Technique, fit, hookimpl, load_subject
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase, Subject
from pcs_core.data.later import Later, Pictures
from pcs_core.errors import InputError
from pcs_engine.pools import ENCODE_BATCH
from pcs_folders.looking import AT_HAND
from pcs_testing import make_recipe
from pcs_testing.probe import Probe


class Counted:
    """Makes pictures, and counts how many of those that it made are still there."""

    def __init__(self) -> None:
        self.now = self.most = self.made = 0

    def picture(self, number: int) -> Later:
        return Later((3, 40, 60), lambda: self.make(number))

    def make(self, number: int) -> torch.Tensor:
        tensor = torch.full((3, 40, 60), number / 100)
        self.now, self.made = self.now + 1, self.made + 1
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self.gone)
        return tensor

    def gone(self) -> None:
        self.now -= 1


class Looks(Technique):
    """Looks at all references, one after the other."""

    id = "test.pictures_at_one_time"

    @hookimpl
    def extract(self, run: Any, subject: Any, moment: str) -> None:
        """See each as it was given, and as it is shown."""
        for image in subject.images:
            assert image.shape[-1] == 60
        for example in run.features.examples:
            assert example.image.shape[-1] == example.picture.shape[-1]


def many(count: int, counted: Counted) -> Subject:
    images: Any = Pictures(counted.picture(n) for n in range(count))
    return Subject("rex", (Concept("dog", "<rex>", "dog"),), images)


def recipe() -> Any:
    phase = Phase("all", 3, batch={"subject": 2}, lr={"*": 1e-2}, train=("*",))
    return make_recipe([Looks(), Probe()], phase)


@pytest.mark.parametrize("options", [{}, {"crop": "none"}, {"buckets": True}])
def test_a_fit_holds_as_many_pictures_as_it_encodes_at_a_time(
    backbone: Backbone, options: dict[str, Any]
) -> None:
    few, counted = Counted(), Counted()
    fit(recipe(), many(3, few), backbone, **options)
    fit(recipe(), many(60, counted), backbone, **options)
    assert counted.made >= 3 * 60
    assert counted.most <= ENCODE_BATCH
    assert few.now == counted.now == 0


def test_it_learns_what_it_would_of_pictures_that_are_there(backbone: Backbone) -> None:
    later = many(5, Counted())
    there = replace(later, images=tuple(later.images))
    (one,), (other,) = fit(recipe(), later, backbone), fit(recipe(), there, backbone)
    assert all(torch.equal(t, other.tensors[k]) for k, t in one.tensors.items())


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        Image.new("RGB", (400, 300), (10 * n, 90, 40)).save(folder / f"{n}.jpg")
        mask = Image.new("L", (400, 300), 0)
        mask.paste(255, (50, 50, 300, 250))
        mask.save(folder / f"{n}.mask.png")
    return folder


def test_a_folders_pictures_and_masks_are_read_when_they_are_looked_at(tmp_path: Path) -> None:
    subject = load_subject(photographs(tmp_path / "rex", 6), noun="dog", token="<rex>")
    seen = [weakref.ref(image) for image in subject.images]
    seen += [weakref.ref(mask) for mask in subject.masks["dog"]]
    assert sum(one() is not None for one in seen) <= AT_HAND + 2
    assert len(subject.images) == len(subject.masks["dog"]) == 6
    assert float(subject.images[5][0, 0, 0]) == pytest.approx(50 / 255, abs=0.02)
    whole = torch.zeros(1, 300, 400)
    whole[:, 50:250, 50:300] = 1
    assert torch.equal(subject.masks["dog"][5], whole)


def test_a_file_that_was_changed_since_is_refused_by_name(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "rex", 2)
    subject = load_subject(folder, noun="dog", token="<rex>")
    Image.new("RGB", (400, 300), "white").save(folder / "0.jpg")
    with pytest.raises(InputError, match=r"0\.jpg was changed while it was in use"):
        subject.images[0]
    (folder / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1\.jpg was removed while it was in use"):
        subject.images[1]


@pytest.mark.parametrize(
    ("side", "count"), [(64, 16), (128, 16), (256, 8), (512, 2), (1024, 1), (2048, 1)]
)
def test_large_pictures_are_encoded_few_at_a_time(side: int, count: int) -> None:
    from pcs_engine.pools import encoded_together

    assert encoded_together((side, side)) == count
