"""What `extract` found out about the subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.subject import Concept, Example


@dataclass(frozen=True, slots=True)
class Features:
    """Result of `extract`, and what `fuse` reads.

    ``tensors`` are named ("clip.image", "ddim.latents"); the core stacks them [S, ...] over
    subjects. ``examples`` add to the references; ``captions`` (alternatives with placeholders)
    replace the default caption of the references that have none of their own; one with ``{caption}``
    in it is built around what the user wrote beside a reference, and ``{reference}`` is the reference's
    number, from 0. ``concepts`` holds
    each subject's concepts, since `fuse` gets no subject at sampling. ``keep`` names the tensors
    that sampling needs: they go into the artifact.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    captions: tuple[str, ...] = ()
    concepts: tuple[tuple[Concept, ...], ...] = ()
    keep: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str, reader: str) -> Tensor:
        """Return the tensor called ``key``, which the technique ``reader`` cannot do without.

        Raises
        ------
        RecipeError
            No technique of the recipe gives it.
        """
        from pcs_core.errors import RecipeError, nearest

        if key not in self.tensors:
            known = ", ".join(sorted(self.tensors)) or "none"
            raise RecipeError(
                f"{reader} reads the feature {key!r}, which no technique of the recipe gives"
                f"{nearest(key, self.tensors)} (features found: {known}): add one that does, before it"
            )
        return self.tensors[key]

    @property
    def subjects(self) -> int:
        """How many subjects these features are about."""
        return max(len(self.concepts), 1)
