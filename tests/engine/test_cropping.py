"""The crop keeps the subject; what it loses is said with its share; what is padded does not count."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from pcs_core import fit, open_backbone
from pcs_core.assembly import load_recipe
from pcs_core.data import Concept, Masks, Subject
from pcs_core.errors import InputError
from pcs_engine.cropping import crop_subject
from pcs_engine.prepare import fit_image, references

SIZE = (32, 32)
WIDE = torch.rand(3, 20, 60, generator=torch.Generator().manual_seed(0))


def subject(image: torch.Tensor = WIDE, mask: torch.Tensor | None = None, **marks: Any) -> Subject:
    masks = {} if mask is None else {"dog": (mask,)}
    concepts = (Concept("dog", "<dog>", "dog"),)
    return Subject("s", concepts, (image,), masks=masks, files=("a.png",), extra=(marks,))


def square(left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, 20, 60)
    mask[:, 4:16, left:right] = 1.0
    return mask


def test_without_marks_the_middle_stays_and_the_loss_is_said() -> None:
    given = subject()
    got, (line,) = crop_subject(given, SIZE)
    assert got is given
    assert line.startswith("subject 's': a.png: the crop to 32 x 32 leaves out 67 % of it")
    assert crop_subject(subject(WIDE[..., :22]), SIZE)[1] == ()


@pytest.mark.parametrize(
    ("left", "right", "start"), [(0, 10, 0), (50, 60, 40), (12, 24, 12), (30, 45, 25)]
)
def test_the_crop_is_moved_as_little_as_keeps_the_mask(left: int, right: int, start: int) -> None:
    got, said = crop_subject(subject(mask=square(left, right)), SIZE)
    assert said == ()
    assert torch.equal(got.images[0], WIDE[..., start : start + 20])
    mask = got.masks["dog"][0]
    assert mask is not None
    assert float(mask.sum()) == float(square(left, right).sum())


def test_a_mask_that_the_middle_shows_changes_nothing() -> None:
    given = subject(mask=square(22, 36))
    got, said = crop_subject(given, SIZE)
    assert got is given
    assert said == ()


def test_part_of_a_mask_that_is_lost_is_said() -> None:
    (line,) = crop_subject(subject(mask=square(0, 40)), SIZE)[1]
    assert "the crop leaves out 50.0 % of the mask of 'dog'" in line
    (line,) = crop_subject(subject(mask=square(0, 10)), SIZE, "centre")[1]
    assert "the crop leaves out 100.0 % of the mask of 'dog'" in line


def test_boxes_and_points_keep_the_crop_and_go_with_it() -> None:
    got, said = crop_subject(subject(points=[[0.1, 0.5]], boxes=[[0.0, 0.2, 0.2, 0.8]]), SIZE)
    assert said == ()
    assert torch.equal(got.images[0], WIDE[..., :20])
    assert got.extra[0]["points"][0] == pytest.approx([0.3, 0.5])
    assert got.extra[0]["boxes"][0] == pytest.approx([0.0, 0.2, 0.6, 0.8])


@pytest.mark.parametrize("mode", ["none", "subject"])
def test_a_picture_is_shown_whole_where_the_loss_counts_on_it_alone(mode: str) -> None:
    got, said = crop_subject(subject(), SIZE, mode)
    assert said == ()
    assert tuple(got.images[0].shape) == (3, 60, 60)
    assert torch.equal(got.images[0][:, 20:40], WIDE)
    (example,) = references(got, 0, SIZE, Masks(), cell=2)
    assert example.mask is not None
    # rows 10.7 to 21.3 of 32 are picture; whole ones and 2 pixels from the ground: 13 to 18
    rows = example.mask[0, :, 16].nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) in {(13, 18), (14, 17)}
    assert float(example.mask.mean()) == pytest.approx(1.0)
    assert torch.equal(example.image, fit_image(got.images[0], SIZE))


def test_subject_keeps_marks_and_none_does_not_cut() -> None:
    got, _ = crop_subject(subject(mask=square(0, 10)), SIZE, "subject")
    assert torch.equal(got.images[0], WIDE[..., :20])
    got, _ = crop_subject(subject(mask=square(0, 10)), SIZE, "none")
    mask = got.masks["dog"][0]
    assert mask is not None
    assert tuple(mask.shape) == (1, 60, 60)
    assert float(mask.sum()) == float(square(0, 10).sum())


def test_an_unknown_crop_is_refused() -> None:
    with pytest.raises(InputError, match="crop 'center': auto, centre, subject, none"):
        crop_subject(subject(), SIZE, "center")


def test_a_fit_learns_from_an_edge_only_where_it_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=2"])
    other = WIDE.clone()
    other[..., :8] = 0.0

    def learned(image: torch.Tensor, crop: str) -> torch.Tensor:
        (made,) = fit(recipe, subject(image), open_backbone("tiny"), seed=0, crop=crop)
        assert made.extra.get("crop", "auto") == crop
        return torch.cat([t.flatten() for t in made.tensors.values()])

    with caplog.at_level(logging.WARNING):
        assert torch.equal(learned(WIDE, "auto"), learned(other, "auto"))
    assert "a.png: the crop to 32 x 32 leaves out 67 %" in caplog.text
    assert not torch.equal(learned(WIDE, "none"), learned(other, "none"))


@pytest.mark.parametrize(("mask", "crop"), [(square(0, 0), "auto"), (square(0, 10), "centre")])
def test_a_mask_of_which_nothing_is_shown_never_counts_as_everything(
    mask: torch.Tensor, crop: str
) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=0"])
    with pytest.raises(
        InputError, match=r"the mask of a\.png is empty where the network is shown it"
    ):
        fit(recipe, subject(mask=mask), open_backbone("tiny"), seed=0, crop=crop)


def test_a_picture_that_is_enlarged_much_is_said() -> None:
    small, fair = torch.rand(3, 4, 4), torch.rand(3, 8, 8)
    assert crop_subject(subject(fair), SIZE)[1] == ()
    (line,) = crop_subject(subject(small), SIZE)[1]
    assert line == "subject 's': a.png: its 4 x 4 pixels are enlarged 8 times"
