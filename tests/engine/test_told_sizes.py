"""What a fit tells of each picture's size and crop, for networks that are told sizes."""

from __future__ import annotations

from typing import Any

import torch

from pcs_core import fit, open_backbone
from pcs_core.data import Concept, Example, Features, Phase, Subject
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine.prepare import fit_image, references
from pcs_testing import make_recipe
from pcs_testing.probe import Probe

SEEN: list[dict[str, torch.Tensor]] = []


def thing(*sizes: tuple[int, int]) -> Subject:
    rng = torch.Generator().manual_seed(0)
    images = tuple(torch.rand(3, *size, generator=rng) for size in sizes)
    return Subject("thing", (Concept("thing", "<x>", "dog"),), images, (None,) * len(sizes))


def test_sizes_and_corners_are_those_of_the_fitted_picture() -> None:
    from pcs_core.data import Masks

    subject = thing((40, 80), (64, 32), (32, 32))
    examples = references(subject, 0, (32, 32), Masks())
    assert [e.extra["picture.size"].tolist() for e in examples] == [[40, 80], [64, 32], [32, 32]]
    # 40 x 80 comes down to 32 x 64, of which the middle 32 columns are shown
    assert [e.extra["picture.corner"].tolist() for e in examples] == [[0, 16], [16, 0], [0, 0]]
    shown = fit_image(subject.images[1], (32, 32))
    assert torch.equal(shown, subject.images[1][:, 16:48])


class Watch(Technique):
    """Adds an example that was not fitted, and keeps what the network is told."""

    id = "x.watch"

    @hookimpl
    def extract(self, subject: Any, moment: str) -> Features | None:
        if moment != "start":
            return None
        return Features(examples=(Example(torch.rand(3, 32, 32), ("a dog",), role="prior"),))

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append(dict(step.cond.extra))


def test_a_fit_tells_them_row_by_row() -> None:
    SEEN.clear()
    phase = Phase("p", 1, batch={"subject": 1, "prior": 1}, lr={"*": 1e-3})
    backbone = open_backbone("tiny-sdxl")
    fit(make_recipe([Probe(), Watch()], phase), thing((40, 80)), backbone)
    (extra,) = SEEN
    assert extra["picture.size"].tolist() == [[40, 80], [32, 32]]
    assert extra["picture.corner"].tolist() == [[0, 16], [0, 0]]
