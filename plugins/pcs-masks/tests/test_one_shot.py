"""Masks of all pictures from one: PerSAM's steps on SAM's real class, and what the command says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from pcs_cli.main import main
from pcs_core.data import MaskQuery
from pcs_core.errors import InputError
from pcs_masks.claims import Services
from pcs_masks.one_shot import OneShotMasks, appearance, segment, similarity
from pcs_masks.segmenter import segment_anything, tiny
from pcs_testing import make_picture, make_subject

MASK = torch.zeros(1, 40, 56)
MASK[:, 10:30, 5:25] = 1.0
PICTURE = make_picture(1, (40, 56))


def made(masks: tuple[Any, ...], size: tuple[int, int] = (32, 32)) -> Any:
    subject = replace(make_subject(), images=(PICTURE, make_picture(2, (64, 40))))
    subject = replace(subject, masks={subject.concept.name: masks}, files=("a.png", "b.png"))
    query = MaskQuery(moment="subject", subject=subject, size=size)
    return OneShotMasks(model="tiny.sam").mask(Services(), query)  # type: ignore[arg-type]


def test_a_picture_is_scaled_as_the_release_scales_it() -> None:
    """The longer side fills the square, the rest is zero after normalising, and a mask finds its way back."""
    sam = tiny()
    assert sam.shown(PICTURE) == (46, 64)
    assert float(sam.square(PICTURE)[:, 46:].abs().max()) == 0.0
    whole = torch.zeros(32, 32)
    whole[:24, :16] = 1.0  # the left half of what is shown, and a row more
    back = sam.unfold(whole, PICTURE)[0]
    assert back.shape == (40, 56)
    assert float(back[:, :24].min()) > 0.9
    assert float(back[:, 32:].max()) < 0.1


def test_what_lies_under_the_mask_is_most_like_it() -> None:
    """Of a picture of one colour in the mask and another beside it, the mask's places are alike."""
    picture = torch.where(MASK.bool(), torch.tensor(0.9), torch.tensor(0.1)).expand(3, -1, -1)
    sam = tiny()
    look = appearance(sam, picture, MASK)
    alike = similarity(sam, sam.features(picture), picture, look)
    inside = MASK[0].bool()
    assert float(alike[inside].mean()) > float(alike[~inside].mean())
    mask = segment(sam, picture, look)
    assert mask.shape == (1, 40, 56)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_masks_that_are_there_stay_and_only_missing_ones_are_made() -> None:
    assert made((MASK, torch.ones(1, 64, 40))) is None
    (answer,) = made((MASK, None)).by_name.values()
    assert answer.shape == (2, 1, 32, 32)
    assert float(answer[0].mean()) == pytest.approx(float(MASK[:, :, 8:48].mean()), abs=0.02)


def test_without_any_mask_it_says_what_to_lay_where() -> None:
    with pytest.raises(InputError, match="no picture has a mask"):
        made((None, None))


def test_the_command_makes_masks_from_one_and_says_what_sam_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fit reads weights of SAM's layout from a folder; without them it says where they are had."""
    folder, weights = tmp_path / "rex", tmp_path / "sam"
    folder.mkdir()
    for name in ("a", "b"):
        save_image(PICTURE, folder / f"{name}.png")
    save_image(MASK, folder / "a.mask.png")
    tiny().model.save_pretrained(weights)
    where = ("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--no-preview")
    few = ("tune.steps=1", "regularizers.prior_preservation.count=1", "sample.steps=1")
    chosen = [word for setting in few for word in ("--set", setting)]
    try:
        for place, code in ((tmp_path / "nowhere", 2), (weights, 0)):
            segment_anything.cache_clear()
            monkeypatch.setenv("PCS_SAM", str(place))
            out = str(tmp_path / f"out-{code}")
            assert main(["fit", "persam", str(folder), "--out", out, *where, *chosen]) == code
            said = capsys.readouterr().err
            assert ("PCS_SAM" in said and "Apache-2.0" in said) is (code == 2)
    finally:
        segment_anything.cache_clear()
