"""The algebra of tuned, base and null on one forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Branch, Phase
from pcs_guidance.branches import BranchGuidance
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

SEEN: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []


class Recorder(Technique):
    id = "test.look"

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Any:
        prediction = yield
        sides = {
            "tuned": Branch(),
            "base": Branch(model="base"),
            "null": Branch("negative", model="base"),
        }
        x0 = {
            name: step.evaluate(step.latents, step.level, step.branch(b), model=b.model).x0
            for name, b in sides.items()
        }
        SEEN.append((prediction.x0, x0))
        return prediction


@pytest.mark.parametrize(("tuned", "text"), [(2.0, 5.0), (-1.0, 0.0), (0.0, 0.0), (0.0, 3.0)])
def test_the_prediction_is_the_weighted_sum(backbone: Backbone, tuned: float, text: float) -> None:
    SEEN.clear()
    uses = [Recorder(), BranchGuidance(tuned=tuned, text=text), Probe()]
    recipe = make_recipe(uses, Phase("p", 2, lr={"*": 0.5}))
    (artifact,) = fit(recipe, make_subject(), backbone)
    sample(artifact, backbone, "a photo of <fido>", steps=1, scale=1.0)
    ((guided, x0),) = SEEN
    assert not torch.equal(x0["tuned"], x0["base"])
    expected = x0["tuned"] + tuned * (x0["tuned"] - x0["base"]) + text * (x0["base"] - x0["null"])
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)
