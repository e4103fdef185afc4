"""The ground around a picture that was made smaller is never learned, whatever else the recipe holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase, Subject, valid_cells
from pcs_data.augment import Augment
from pcs_data.cut_mix import CutMix
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe

SMALL: dict[str, Any] = {"variants": 8, "rescale": (0.4, 0.6)}


def pair() -> Subject:
    """Return a subject of two concepts, told apart by captions."""
    concepts = (Concept("cat", "<cat>", "cat"), Concept("dog", "<dog>", "dog"))
    pictures = tuple(make_picture(i) for i in range(4))
    return Subject("pair", concepts, images=pictures, captions=("<cat>", "<cat>", "<dog>", "<dog>"))


def seen(backbone: Backbone, technique: Technique, subject: Subject) -> list[tuple[Any, ...]]:
    """Return (reconstruction loss, error, region of valid pixels or None) of the rows of a fit."""
    rows: list[tuple[Any, ...]] = []

    class Spy(Technique):
        id = "test.spy"

        @hookimpl(wrapper=True)
        def regularize(self, step: Any) -> Any:
            terms = yield
            named = {t.name: t for r in terms for t in (r if isinstance(r, list) else [r])}
            covered = [v for k, v in step.batch.regions.items() if k.startswith("mask.valid.")]
            for row, value in enumerate(named["core.denoise"].value.detach()):
                region = covered[0][row] if covered else None
                rows.append((float(value), step.error.detach()[row], region))
            return terms

    uses = [Spy(), technique, Probe()]
    fit(make_recipe(uses, Phase("p", 8, batch={"subject": 4}, lr={"*": 1e-4})), subject, backbone)
    return rows


@pytest.mark.parametrize(
    ("technique", "subject"),
    [
        (Augment(**SMALL), make_subject()),
        (Augment(**SMALL, size_words=False, fill="grey"), make_subject()),
        (CutMix(layout="scaled"), pair()),
    ],
    ids=["augment", "augment-on-grey", "cut-mix"],
)
def test_the_loss_is_the_error_summed_over_the_picture_by_its_cells(
    backbone: Backbone, technique: Technique, subject: Subject
) -> None:
    rows = seen(backbone, technique, subject)
    padded = [(v, e, r) for v, e, r in rows if r is not None and r.max() > 0]
    assert padded
    for value, error, region in padded:
        assert region.mean() < 1
        cells = valid_cells(region[None])[0]
        expected = (error * cells).sum() / (cells.sum() * error.shape[0])
        assert value == pytest.approx(float(expected), rel=1e-4)
        assert value != pytest.approx(float(error.mean()), rel=1e-4)
    for value, error, region in rows:
        if region is None or not region.max() > 0:
            assert value == pytest.approx(float(error.mean()), rel=1e-4)


def test_cells_at_the_border_of_the_ground_do_not_count() -> None:
    """An encoder reads around a cell: on 8 x 8 pixels a cell, as Custom Diffusion's code drops a ring."""
    covered = torch.zeros(1, 1, 8, 8)
    covered[..., 2:7, 0:5] = 1.0  # aligned on three sides, at the picture's edge on the left
    kept = valid_cells(covered)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., 3:6, 0:4] = 1.0
    assert torch.equal(kept, expected)
    covered[..., 2, 0:5] = 0.5  # a row of cells half covered: the next whole row counts
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., 3:6, 0:4] = 1.0
    assert torch.equal(valid_cells(covered), expected)
    tiny = torch.zeros(1, 1, 8, 8)
    tiny[..., 3, 3] = 0.4  # too small for a whole cell
    assert torch.equal(valid_cells(tiny), tiny)
