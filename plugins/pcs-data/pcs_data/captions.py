"""Captions from a template: content and descriptor (StyleDrop, arXiv:2306.00983, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core import Technique, hookimpl
from pcs_core.data import Features

if TYPE_CHECKING:
    from pcs_core.data import Run, Subject


class Captions(Technique):
    """Say what a picture shows, in the words beside it, and name what is learned in a set place.

    What the user wrote beside a picture is its content, unless it names the token itself: then it is
    the caption as it stands.
    """

    id = "data.captions"
    rowwise = True
    catalogue = ("recaptioning",)

    templates: tuple[str, ...] = ("{content} in {token} style",)
    """Captions; ``{content}`` is what the picture shows, ``{token}`` what is learned."""
    content: str = "a picture"
    """Content of pictures that have no text beside them."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give both kinds of captions: around the user's words, and with the usual content."""
        if moment != "start":
            return None
        around = tuple(t.replace("{content}", "{caption}") for t in self.templates)
        usual = tuple(t.replace("{content}", self.content) for t in self.templates)
        return Features(captions=(*around, *usual))
