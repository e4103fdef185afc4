"""What a run asks of the rest of the engine, handed to it so that it need not know who does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Subject


class DrawBase(Protocol):
    """Pictures of the untuned backbone."""

    def __call__(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        *,
        seed: int,
        scale: float,
        steps: int,
        scheduler: str,
    ) -> Tensor:
        """Return pictures [n 3 h w] in [0, 1], one per prompt."""


class DrawPersonalized(Protocol):
    """Pictures of a personalization that is made for them."""

    def __call__(
        self,
        system: str,
        subject: Subject,
        backbone: Backbone,
        prompts: Sequence[str],
        *,
        seed: int,
        memory: dict[str, Any],
    ) -> Tensor:
        """Return pictures [n 3 h w] in [0, 1], one per prompt."""


@dataclass(frozen=True, slots=True)
class RunServices:
    """The services of a run."""

    draw_base: DrawBase
    draw_personalized: DrawPersonalized
