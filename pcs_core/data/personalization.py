"""The result of a fit: everything needed to sample, detached from any network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.recipe import Recipe
    from pcs_core.data.subject import Concept


@dataclass(frozen=True, slots=True)
class BackboneCard:
    """Identity of a backbone.

    ``id`` as the user named it, ``hash`` sha256 over its weights, ``family`` its layout ("sd"),
    ``size`` (h, w) of its pictures, ``prediction`` epsilon, v_prediction, flow or tokens.
    """

    id: str
    hash: str
    family: str
    size: tuple[int, int]
    prediction: str
    location: str = ""


@dataclass(frozen=True, slots=True)
class Personalization:
    """A fitted subject, or several that are drawn together.

    ``tensors``: ``"<use>/<site or token>/<param>"`` -> tensor of this subject (no subject axis).
    ``features``: what sampling needs from `extract`. ``losses``: last mean value of each term. ``parts``: of
    several, each with what stands before the names of its uses; such a one is drawn with, and not stored.
    """

    recipe: Recipe
    backbone: BackboneCard
    concepts: tuple[Concept, ...]
    tensors: Mapping[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    subject: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[tuple[str, Personalization], ...] = ()
