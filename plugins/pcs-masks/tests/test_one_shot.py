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
from pcs_masks.segmenter import Segmenter, segment_anything, tiny
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


def test_three_predictions_follow_each_other_and_the_surest_mask_is_kept() -> None:
    """PerSAM's order: one mask by points and hints, three by the mask, three by the mask and its box."""
    picture = torch.where(MASK.bool(), torch.tensor(0.9), torch.tensor(0.1)).expand(3, -1, -1)

    class Watched(Segmenter):
        """SAM whose answers are laid down: left, middle or right of its square, and how sure it is."""

        asked: list[dict[str, Any]] = []

        def predict(
            self, features: torch.Tensor, *, several: bool, **prompt: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.asked.append({"several": several, **prompt})
            masks = -torch.ones(3, 16, 16)
            for k in range(3):
                masks[k, 2:8, 4 * k : 4 * k + 4] = 1.0
            sure = torch.tensor([0.2, 0.9, 0.1] if len(self.asked) < 3 else [0.1, 0.2, 0.9])
            return (masks, sure) if several else (masks[:1], sure[:1])

    sam = Watched(tiny().model)
    look = appearance(sam, picture, MASK)
    mask = segment(sam, picture, look)[0]
    first, second, third = sam.asked
    assert [call["several"] for call in sam.asked] == [False, True, True]
    # the hint is what is like the look, by how far it stands out: half of the grid above one half
    hint = first["attention_similarity"].flatten()
    assert hint.shape == (64,)
    assert float(hint.min()) < 0.4 < 0.6 < float(hint.max())
    spread = (hint / (1 - hint)).log()
    assert float(spread.std()) == pytest.approx(1.0, abs=0.35)
    # the second call is told the first's mask, the third the surest of the second and its box
    assert second["input_masks"].shape == third["input_masks"].shape == (1, 1, 16, 16)
    assert bool((second["input_masks"][0, 0, 2:8, 0:4] > 0).all())
    assert bool((third["input_masks"][0, 0, 2:8, 4:8] > 0).all())
    left, top, right, bottom = third["input_boxes"].flatten().tolist()
    assert (left, right) == pytest.approx(
        (16, 32), abs=2.5
    )  # columns 4 to 7 of 16 in a square of 64
    assert (top, bottom) == pytest.approx((8, 32), abs=2.5)
    # and the last one's surest mask is the answer, at the places of the picture
    columns = mask.any(0).nonzero().flatten() * 64 / 56
    assert (float(columns[0]), float(columns[-1])) == pytest.approx((32, 48), abs=2.5)
    assert set(mask.unique().tolist()) == {0.0, 1.0}


class Watched(Segmenter):
    """SAM's class, which keeps what it was asked."""

    asked: list[dict[str, Any]]

    def predict(self, features: torch.Tensor, **prompt: Any) -> Any:
        """Answer as ever."""
        self.asked.append(prompt)
        return super().predict(features, **prompt)


def test_it_is_asked_by_the_most_and_the_least_similar_place_and_then_refined() -> None:
    """As `persam.py`: both points each time; hints at first, then the mask, then the mask and its box."""
    sam = Watched(tiny().model)
    sam.asked = []
    look = appearance(sam, PICTURE, MASK)
    segment(sam, PICTURE, look)
    alike = similarity(sam, sam.features(PICTURE), PICTURE, look)
    to_picture = 56 / 64  # the longer side fills the square
    for prompt in sam.asked:
        assert prompt["input_labels"].tolist() == [[[1, 0]]]
        points = (prompt["input_points"][0, 0] * to_picture).round().long().tolist()
        for point, place in zip(points, (alike.argmax(), alike.argmin()), strict=True):
            y, x = divmod(int(place), 56)
            assert point == pytest.approx([x, y], abs=1)
    hints = ("attention_similarity", "target_embedding")
    assert [all(h in p for h in hints) for p in sam.asked] == [True, False, False][: len(sam.asked)]
    assert ["input_masks" in p for p in sam.asked] == [False, True, True][: len(sam.asked)]
    assert ["input_boxes" in p for p in sam.asked] == [False, False, True][: len(sam.asked)]
    assert len(sam.asked) >= 2


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
