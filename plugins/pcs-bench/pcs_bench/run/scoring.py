"""Scores of a job's pictures: every metric on its own, and one that fails spoils no other."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor


def one_line(error: BaseException) -> str:
    """Return what went wrong on one line; a bug with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, PcsError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Metrics:
    """Opens each metric once, and remembers why one does not open."""

    def __init__(self, ids: Sequence[str], get: Callable[[str], Any] | None = None) -> None:
        self.ids = tuple(ids)
        self._get = get
        self._opened: dict[str, Any] = {}
        self._broken: dict[str, str] = {}

    def open(self, id: str) -> Any:
        """Return the metric.

        Raises
        ------
        InputError
            It does not open; the same reason each time.
        """
        if id in self._broken:
            raise InputError(self._broken[id])
        if id not in self._opened:
            try:
                self._opened[id] = (self._get or _catalogue)(id)
            except Exception as error:
                self._broken[id] = one_line(error)
                raise InputError(self._broken[id]) from error
        return self._opened[id]

    def per(self, id: str) -> str:
        """Return what the metric gives a number for ("picture" where it does not open)."""
        with contextlib.suppress(PcsError):
            return str(getattr(self.open(id), "per", "picture"))
        return "picture"

    def of_pictures(self) -> list[str]:
        """Return the ids of those that score a picture by itself."""
        return [id for id in self.ids if self.per(id) == "picture"]

    def of_sets(self) -> list[str]:
        """Return the ids of those that score pictures together."""
        return [id for id in self.ids if self.per(id) != "picture"]

    def needs(self, id: str, what: str) -> bool:
        """Return whether the metric reads ``what`` ("untuned", "masks" ...)."""
        with contextlib.suppress(PcsError):
            return what in (getattr(self.open(id), "needs", ()) or ())
        return False

    def score(
        self,
        ids: Sequence[str],
        pictures: Tensor,
        *,
        prompts: Sequence[str],
        references: Tensor,
        masks: Tensor | None,
        untuned: Callable[[], Tensor],
    ) -> tuple[list[dict[str, float | None]], dict[str, str]]:
        """Return a dict of scores per picture [n 3 h w], and by metric why it has none.

        ``untuned`` draws when it is first asked for. A score that is not finite is None.
        """
        import torch

        rows: list[dict[str, float | None]] = [{} for _ in prompts]
        errors: dict[str, str] = {}
        for id in ids:
            try:
                metric = self.open(id)
                with torch.no_grad():
                    values = metric.score(
                        pictures,
                        prompts=list(prompts),
                        references=references,
                        masks=masks if self.needs(id, "masks") else None,
                        untuned=untuned() if self.needs(id, "untuned") else None,
                    )
                listed = torch.as_tensor(values).float().flatten().tolist()
                if len(listed) != len(prompts):
                    raise InputError(f"it gave {len(listed)} scores of {len(prompts)} pictures")
            except Exception as error:
                errors[id] = one_line(error)
                continue
            for row, value in zip(rows, listed, strict=True):
                row[id] = value if math.isfinite(value) else None
        return rows, errors


def _catalogue(id: str) -> Any:
    from pcs_bench import metrics

    return metrics.get(id)


def complete(line: Mapping[str, Any], ids: Sequence[str]) -> bool:
    """Return whether a cell's line holds a score (or none, but asked for) of every metric."""
    return all(id in line.get("scores", {}) for id in ids)
