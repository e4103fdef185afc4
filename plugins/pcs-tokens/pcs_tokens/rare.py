"""An existing rare string plus the class noun names the subject (DreamBooth, arXiv:2208.12242, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, Word
from pcs_tokens.templates import TEMPLATES

if TYPE_CHECKING:
    from pcs_core.data import Run, Subject


class RareToken(Technique):
    """Replace the placeholder by "<identifier> <noun>" before tokenizing. Trains nothing."""

    id = "tokens.rare"
    rowwise = True
    catalogue = ("rare-token",)
    profiled = {"identifier": "rare_word"}

    identifier: str = "sks"
    """A string the model hardly knows. No new embedding is made for it. Empty: the noun alone."""
    with_noun: bool = True
    """Whether the class noun follows the identifier."""
    templates: tuple[str, ...] = TEMPLATES
    """Captions of references that have none; ``{token}`` stands for the subject."""

    def implements(self) -> tuple[str, ...]:
        """Return nothing where the noun stands alone."""
        return self.catalogue if self.identifier else ()

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Say what each placeholder stands for. A second concept gets its number appended."""
        words = []
        for subject, concepts in enumerate(features.concepts):
            for slot, concept in enumerate(concepts):
                identifier = self.identifier
                if identifier and slot:
                    identifier = f"{identifier}{slot + 1}"
                with_noun = self.with_noun or not identifier
                text = f"{identifier} {concept.noun}".strip() if with_noun else identifier
                words.append(
                    Word(
                        token=concept.token,
                        text=text,
                        noun=concept.noun if with_noun else "",
                        subject=subject if len(features.concepts) > 1 else None,
                    )
                )
        return Fusion(words=tuple(words))
