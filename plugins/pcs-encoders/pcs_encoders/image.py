"""Features of the references from a frozen image encoder (IP-Adapter, arXiv:2308.06721, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import (
    Technique,
    fit_image,
    hookimpl,
    how_to_name_concepts,
    said_concepts,
    shown_concepts,
)
from pcs_core.data import Features, Fusion, Words
from pcs_core.errors import InputError, RecipeError
from pcs_encoders.pictures import Background, Square, cut, on_background, square
from pcs_encoders.tail import TrainedTail

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Masks, Run, Subject


class ImageFeatures(Technique):
    """Encode the references of each concept once: features ``"<key>"`` [slots d] or [slots t d].

    Several references of a concept give their mean, or all of their tokens. Slots without a concept hold
    zeros. It changes nothing by itself, and trains nothing unless ``trained_layers`` says so: then the feature
    ``"<key>.states"`` [slots references t w] is what the encoder's last blocks read of each reference, and the
    stream ``"<key>.trained"`` what they make of it, [slots d].
    """

    id = "encoders.image"
    takes_clips = False
    catalogue = ("image-encoder", "reference-aggregation")
    tiny = {"model": "tiny.image", "output": "pooled"}
    later: ClassVar[tuple[str, ...]] = ("square", "trained_layers")

    model: str = "clip.image"
    """Feature model with ``pooled`` and ``patches``."""
    key: str = "image"
    """Name of the feature; other techniques read it by this name."""
    output: Literal["pooled", "patches"] = "pooled"
    """One vector per picture, or the encoder's tokens."""
    several: Literal["mean", "join"] = "mean"
    """Several references of a concept: their mean, or with ``output = "patches"`` their tokens side by side
    (the mean of pictures whose parts lie elsewhere says little of any)."""
    slots: Annotated[int, Field(ge=1)] = 1
    """How many concepts a picture may have."""
    crop: bool = False
    """Whether a reference is cut to its subject's mask first."""
    background: Background = "keep"
    """What stands behind a masked subject: what is there, white, or noise, a byte per pixel and channel."""
    square: Square = "white"
    """How a picture becomes square: by white or black bars, or as its centre (as CLIP's own preprocessing)."""
    normalise: bool = False
    """Whether pooled features are scaled to unit length before they are averaged."""
    trained_layers: Annotated[int, Field(ge=0)] = 0
    """Last blocks of the encoder that train with a pre-training; 0 leaves it frozen."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        masks = ("region:mask.concept.*",) if self.crop or self.background != "keep" else ()
        trained = (f"feature:{self.key}.states", f"stream:{self.key}.trained")
        return Words(
            may_read=masks,
            writes=(f"feature:{self.key}", *(trained if self.trained_layers else ())),
        )

    @hookimpl
    def extract(self, run: Run, subject: Subject, masks: Masks, moment: str) -> Features | None:
        """Encode at the start; the artifact keeps the result."""
        if moment != "start" or not subject.images:
            return None
        self._check(run, subject)
        encoder = run.feature_model(self.model)
        names = [c.name for c in subject.concepts][: self.slots]
        rows, states = [], []
        for name in names:
            pictures = [
                self._shown(subject, masks, i, name, run, encoder)
                for i in range(len(subject.images))
                if name in (c.name for c in shown_concepts(subject, i))
            ]
            if pictures:
                shown = torch.stack(pictures).to(run.device)
                encoded = getattr(encoder, self.output)(shown)
                if self.normalise and self.output == "pooled":
                    encoded = F.normalize(encoded, dim=-1)
                joined = self.several == "join" and encoded.dim() == 3
                rows.append(encoded.flatten(0, 1) if joined else encoded.mean(0))
                if self.trained_layers:
                    states.append(self._trainable(encoder).states(shown, self.trained_layers))
        tensors = {self.key: self._filled(rows)}
        if self.trained_layers:
            tensors[f"{self.key}.states"] = self._filled(states)
        return Features(tensors=tensors, keep=tuple(tensors))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Let the encoder's last blocks train, where the settings say so."""
        if not self.trained_layers:
            return None
        tail = self._trainable(run.feature_model(self.model)).tail(self.trained_layers)
        return Fusion(edits=(TrainedTail(self.key, tail, self.normalise),))

    def _trainable(self, encoder: Any) -> Any:
        """Return ``encoder`` if its last blocks can train.

        Raises
        ------
        RecipeError
            They cannot, or the recipe asks for its patches.
        """
        if self.output != "pooled":
            raise RecipeError(f"{self.id}: trained_layers goes with output 'pooled' alone")
        if not hasattr(encoder, "tail"):
            raise RecipeError(
                f"{self.id}: the feature model {self.model!r} has no blocks that could train: set "
                "trained_layers to 0"
            )
        return encoder

    def _filled(self, rows: list[Tensor]) -> Tensor:
        """Return a row per slot: of concepts with fewer references, and of no concept, the rest is zeros."""
        if rows[0].dim() > 1:
            longest = max(len(row) for row in rows)
            like = rows[0].new_zeros(longest, *rows[0].shape[1:])
            rows = [torch.cat([row, like[len(row) :]]) for row in rows]
        rows = rows + [torch.zeros_like(rows[0])] * (self.slots - len(rows))
        return torch.stack(rows).float()

    def _check(self, run: Run, subject: Subject) -> None:
        """Refuse what a fit could not encode: in a pre-training, what a record has too much of is left out.

        Raises
        ------
        InputError
            More concepts than slots, or several and a picture that does not say which it shows.
        """
        if len(subject.concepts) < 2 or not run.features.examples:
            return
        if len(subject.concepts) > self.slots:
            names = ", ".join(c.name for c in subject.concepts)
            raise InputError(
                f"subject {subject.name!r} has {len(subject.concepts)} concepts ({names}), and {self.id} "
                f"encodes {self.slots}: give a folder with one of them, or take a system of several"
            )
        for i in range(len(subject.images)):
            if not said_concepts(subject, i):
                file = subject.files[i] if i < len(subject.files) else f"picture {i}"
                raise InputError(
                    f"subject {subject.name!r}: nothing says which concept {file} shows: "
                    f"{how_to_name_concepts(subject)}"
                )

    def _masked(
        self, image: Tensor, subject: Subject, masks: Masks, index: int, name: str, run: Run
    ) -> tuple[Tensor, Tensor | None]:
        """Return the picture and the concept's mask over it: the user's, or else a technique's.

        A technique's mask is laid over the part that the network is shown.
        """
        laid = subject.masks.get(name, ())
        mask = laid[index] if index < len(laid) else None
        computed = masks.get(name)
        if mask is None and computed is not None and bool(computed[index].any()):
            return fit_image(image, run.image_size), computed[index]
        return image, mask

    def _shown(
        self, subject: Subject, masks: Masks, index: int, name: str, run: Run, encoder: Any
    ) -> Tensor:
        """Return picture ``index`` as the encoder is shown it, [3 h w] of one size for all."""
        image, mask = self._masked(subject.images[index], subject, masks, index, name, run)
        if mask is not None:
            image = on_background(image, mask, self.background, run.seed)
            image = cut(image, mask) if self.crop else image
        return square(image, self._size(run, encoder), self.square)

    def _size(self, run: Run, encoder: Any) -> tuple[int, int]:
        """Return height and width of what the encoder is shown: its own, so that it scales nothing again."""
        side = getattr(encoder, "size", None)
        # bars of white came first, and were made at the backbone's size
        return run.image_size if side is None or self.square == "white" else (side, side)
