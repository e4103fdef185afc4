"""What one fit sees of an attachment that several share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcs_core.backbone import Attachment
from pcs_core.backbone.known_texts import KnownTexts, Made

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone, TokenisedPrompts
    from pcs_core.data import Conditioning, Evaluation, Fusion, Level


class LaneTexts(KnownTexts):
    """The texts of one fit: what was shown last is kept for those that look it up together."""

    def __init__(self, net: LaneNet) -> None:
        super().__init__()
        self.net = net
        self.shown: tuple[Tensor | None, tuple[tuple[Made, Tensor], ...]] = (None, ())

    def make(self, text: Tensor) -> Made:
        """Return what the network's layers make of ``text``."""
        return self.net.whole.known_texts.make(text)

    def show(self, text: Tensor, *parts: tuple[Made, Tensor]) -> None:
        """Say what ``text`` is, to the network too."""
        self.shown = text, parts
        self.net.whole.known_texts.show(text, *parts)


class LaneNet(Attachment):
    """An attachment of one subject, inside ``whole``, where that subject has the index ``slot``.

    ``ready`` is called before the network is asked: what the fits train must stand in it.
    """

    def __init__(self, backbone: Backbone, fusion: Fusion) -> None:
        super().__init__(backbone, fusion, fitting=True)
        self.known_texts: LaneTexts = LaneTexts(self)
        self.whole: Attachment = self
        self.slot = 0
        self.ready: Callable[[], None] = lambda: None

    def place(self, whole: Attachment, slot: int, ready: Callable[[], None]) -> None:
        """Let the fit be subject ``slot`` of ``whole`` from now on."""
        self.whole, self.slot, self.ready = whole, slot, ready
        self.context = whole.context

    def indices(self, subject: Tensor | None, rows: int) -> Tensor:
        """Return the rows' subjects [b] in the whole."""
        if subject is None:
            subject = torch.zeros(rows, dtype=torch.long, device=self.backbone.device)
        return subject.to(self.backbone.device) + self.slot

    def encode_text(
        self, prompts: TokenisedPrompts, subject: Tensor | None = None, **options: Any
    ) -> Conditioning:
        """Return the conditioning of prompts of this fit."""
        self.ready()
        rows = self.indices(subject, len(prompts.ids))
        return self.whole.encode_text(prompts, rows, **options).with_(subject=subject)

    def evaluate(
        self, latents: Tensor, level: Level, cond: Conditioning, **options: Any
    ) -> Evaluation:
        """Run the network once on rows of this fit."""
        self.ready()
        shifted = cond.with_(subject=self.indices(cond.subject, cond.rows))
        return self.whole.evaluate(latents, level, shifted, **options)

    @contextmanager
    def under(self, **state: Any) -> Iterator[None]:
        """Put parts of the whole's context in force, for the duration."""
        with self.whole.under(**state):
            yield

    def streams(
        self, features: Mapping[str, Tensor], drop: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Return the streams by name, from features with a row each."""
        self.ready()
        return self.whole.streams(features, drop)

    def latents(self, images: Tensor, index: Sequence[int], edits: str = "*") -> Tensor:
        """Return mean latents of images, pixel edits in force."""
        self.ready()
        return self.whole.latents(images, index, edits)
