"""One metric: what it is, what it needs, and the function that measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MINI = "mini."
"""How ids begin of metrics that look through the Mini metrics."""


@dataclass(frozen=True)
class Metric:
    """A metric of pictures.

    ``better`` is higher or lower; ``needs`` lists prompt, references, masks, untuned; ``per`` is
    picture (a value each), set (one per subject) or suite (one for all pictures of a system).
    ``model`` is the id of the weights, ``preprocessing`` what is done to a picture before.
    """

    id: str
    title: str
    paper: str
    better: str
    needs: tuple[str, ...]
    measure: Callable[..., Tensor]
    model: str
    preprocessing: str
    licence: str = ""
    per: str = "picture"

    @property
    def real(self) -> bool:
        """Whether the published model looks, and not a Mini metric."""
        return not self.id.startswith(MINI)

    def score(
        self,
        pictures: Tensor,
        *,
        prompts: Sequence[str] = (),
        references: Tensor | None = None,
        masks: Tensor | None = None,
        untuned: Tensor | None = None,
    ) -> Tensor:
        """Return the scores [n] (or one value, where ``per`` is not picture).

        ``pictures`` [n 3 h w] and ``untuned`` (what the untuned backbone draws for the same prompts
        and noise) in [0, 1]; ``references`` [m 3 h w]; ``masks`` [m 1 h w] of the references. The
        references of a pair are those of the first subject, then as many of the second.

        Raises
        ------
        InputError
            Something that it needs is missing or of another shape.
        """
        import torch

        given = {
            "prompt": len(prompts) == len(pictures) or None,
            "references": references,
            "masks": masks,
            "untuned": untuned,
        }
        for need in self.needs:
            if given[need] is None:
                what = "one prompt per picture" if need == "prompt" else need
                raise InputError(f"metric {self.id!r} needs {what}")
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise InputError(
                f"metric {self.id!r}: pictures are [n 3 h w], not {tuple(pictures.shape)}"
            )
        arguments = {
            "prompts": list(prompts),
            "references": references,
            "masks": masks,
            "untuned": untuned,
        }
        with torch.no_grad():
            scores: Tensor = self.measure(pictures.float(), **arguments)
        return scores


def ids() -> list[str]:
    """Return the ids of all installed metrics."""
    from pcs_core import installed

    return installed().ids("metrics")


def get(id: str) -> Metric:
    """Open a metric by id; its model is loaded when it first scores.

    Raises
    ------
    UnknownNameError
        No such metric; names the nearest.
    """
    from pcs_core import installed

    metric: Metric = installed().get("metrics", id)()
    return metric
