"""Pictures of a network that is being trained, drawn with it as it stands: nothing of it is copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pcs_core.backbone import Attachment
from pcs_core.data import Features
from pcs_engine.run import EngineRun
from pcs_engine.sample import draw_attached

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Concept, Fusion, Recipe

Drawing = Callable[..., "Tensor"]
"""``(prompts, *, seed=0, negative=None) -> [n 3 h w]``: a picture for each prompt, by the recipe's numbers."""


def live_drawing(
    recipe: Recipe,
    backbone: Backbone,
    fusion: Fusion,
    *,
    name: str,
    concepts: tuple[Concept, ...],
    features: Mapping[str, Tensor],
) -> Drawing:
    """Return what draws the one subject of a fit with ``fusion``, whose attachment is suspended meanwhile.

    ``features`` are what an artifact would store. No random number of the fit is drawn.
    """

    def draw(prompts: Sequence[str], *, seed: int = 0, negative: str | None = None) -> Tensor:
        run = EngineRun(recipe, backbone, seed=seed, names=(name,), concepts=(concepts,))
        run.features = Features(
            tensors={k: v.unsqueeze(0).to(backbone.device) for k, v in features.items()},
            concepts=(concepts,),
        )
        run.plug(fusion)
        usual = recipe.sample
        settings = replace(usual, negative=usual.negative if negative is None else negative)
        with Attachment(backbone, fusion) as net:
            return draw_attached(run, net, prompts, settings, seed)

    return draw
