"""Modules that train and plug into nothing."""

from __future__ import annotations

from collections.abc import Iterable

from pcs_core.edits.edit import Edit


class HeadEdit(Edit):
    """A module that trains but plugs into nothing: a discriminator, a radiance field, a covariance.

    Reached through the technique's own ``fuse`` closure or ``run.heads[name]``; stored with the
    artifact.
    """

    STAGES = ("head",)
    LISTED = 90

    def sole_names(self) -> Iterable[tuple[str, str]]:
        """Return the head."""
        return [("head", self.name)]

    def stage(self) -> str:
        """Return ``"head"``: there is nothing to override."""
        return "head"
