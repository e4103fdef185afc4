"""Maps are held to masks, in four ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_attention.localization_loss import MODES, LocalizationLoss, mean_map
from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Concept, Phase, Site, Subject
from pcs_core.errors import CapabilityError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

MAP = torch.tensor([[[[0.4, 0.2], [0.0, 0.0]]]])  # [b t y x]
INSIDE = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
LAST = torch.tensor([[True]])


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("match", (0.25 + 1.0) / 4),  # the map over its peak: 1, 0.5, 0, 0
        ("contrast", 0.1 - 0.2),
        ("unmix", 0.04 / 4),
        ("split", (0.25 + 1.0) / 4),
    ],
)
def test_values_are_those_of_the_papers(mode: str, value: float) -> None:
    found = MODES[mode](MAP, INSIDE, 1 - INSIDE, LAST)
    assert found.shape == (1, 1)
    assert float(found) == pytest.approx(value)


def test_split_holds_all_but_the_last_word_inside() -> None:
    maps, last = MAP.expand(-1, 2, -1, -1), torch.tensor([[False, True]])
    first, second = MODES["split"](maps, INSIDE, 1 - INSIDE, last)[0].tolist()
    assert first == pytest.approx(0.25)  # mean of 0.5 and 0 outside
    assert second == pytest.approx(0.3125)


def test_grids_are_brought_to_the_finest() -> None:
    sites = [Site("fine", "denoiser", "cross", 1), Site("coarse", "denoiser", "cross", 2)]
    tape = {"fine": torch.full((1, 2, 16, 3), 0.2), "coarse": torch.full((1, 1, 4, 3), 0.4)}
    maps = mean_map(tape, sites, (4, 4), 1)
    assert maps.shape == (1, 3, 4, 4)
    torch.testing.assert_close(maps, torch.full_like(maps, 0.3))


def two_halves() -> Subject:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    concepts = (Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat"))
    masks = {"a": (left,), "b": (left.flip(-1),)}
    return replace(make_subject(images=1), concepts=concepts, masks=masks)


def losses(backbone: Backbone, subject: Subject, **settings: Any) -> Any:
    phase = Phase("p", 1, batch={"subject": 1}, lr={"*": 0.1})
    uses = [catalogue().get("techniques", "tokens.rare")(), LocalizationLoss(**settings), Probe()]
    return fit(make_recipe(uses, phase), subject, backbone)[0].losses


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_term_is_weighed_and_named(backbone: Backbone, mode: str) -> None:
    one, two = (losses(backbone, two_halves(), mode=mode, weight=w) for w in (1.0, 2.0))
    assert one["localization"] != 0.0
    assert two["localization"] == pytest.approx(2 * one["localization"], rel=1e-4)


def test_without_regions_or_weight_there_is_no_term(backbone: Backbone) -> None:
    assert "localization" not in losses(backbone, make_subject())
    assert "localization" not in losses(backbone, two_halves(), weight=0.0)


def test_a_grid_that_is_not_there_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match=r"at scale 8 \(scales there: 1, 2\)"):
        losses(backbone, two_halves(), scale=8)
