"""Pictures of a personalization that is made for them and thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pcs_engine.fit import fit
from pcs_engine.processes import Processes, given
from pcs_engine.sample import sample

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Subject


def draw_personalized(
    system: str,
    subject: Subject,
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    seed: int,
    memory: dict[str, Any],
) -> Tensor:
    """Return pictures [n 3 h w], one per prompt, of a fit of ``system`` on ``subject``.

    ``memory`` holds what fits of this run share, as class pictures.
    """
    with given(
        Processes()
    ):  # several processes ask for it alike, and not all of them if one finds it made
        (personalization,) = fit(system, subject, backbone, seed=seed, memory=memory)
    return sample(personalization, backbone, prompts, seed=seed)
