"""IP-Adapters as they were released: their projectors, and what they say to no picture (arXiv:2308.06721).

Beside the plain one and Plus these are full-face, FaceID and FaceID Plus, whose projectors are written from
diffusers' ``IPAdapterFullImageProjection``, ``IPAdapterFaceIDImageProjection`` and
``IPAdapterFaceIDPlusImageProjection``. Those that read a picture's tokens were trained against the tokens of an
empty picture, not against zeros: so diffusers' ``encode_image``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_attention.image_tokens import PerceiverLayer
from pcs_attention.parallel_adapter import ParallelAdapter
from pcs_attention.tokens_behind_blocks import behind_blocks
from pcs_core import hookimpl
from pcs_core.data import Features, Fusion, StreamEdit, Words
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import Run, Subject

EMPTY = (0.48145466, 0.4578275, 0.40821073)
"""A picture's colour that CLIP's preprocessing makes zero (the mean of its training, arXiv:2103.00020)."""

Projector = Literal["linear", "perceiver", "resampler", "full", "face", "face-perceiver"]
WIDENED = 2
"""Channels between the two maps of FaceID Plus, times those of the face's vector (its ``ffproj_ratio``)."""


class FullTokens(StreamEdit):
    """Each token of the picture by two linear maps and a LayerNorm (IP-Adapter full-face)."""

    def __init__(self, key: str, feature: int, width: int) -> None:
        super().__init__(key, (key,))
        self.inward, self.outward = nn.Linear(feature, feature), nn.Linear(feature, width)
        self.norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b n width] of [b slots d] or [b slots t d] features."""
        (feature,) = features
        flat = feature.flatten(1, -2)
        tokens: Tensor = self.norm(self.outward(F.gelu(self.inward(flat))))
        return tokens


class FaceTokens(StreamEdit):
    """A face's vector as ``tokens`` tokens by two linear maps and a LayerNorm (IP-Adapter FaceID)."""

    def __init__(self, key: str, feature: int, width: int, tokens: int, inner: int) -> None:
        super().__init__(key, (key,))
        self.inward = nn.Linear(feature, inner)
        self.outward = nn.Linear(inner, tokens * width)
        self.norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b slots*tokens width] of [b slots d] features."""
        (feature,) = features
        hidden = self.outward(F.gelu(self.inward(feature.flatten(1, -2))))
        tokens: Tensor = self.norm(hidden.view(len(hidden), -1, self.norm.normalized_shape[0]))
        return tokens


class FacePerceiver(FaceTokens):
    """A face's vector as tokens, which then read what another encoder sees of it (IP-Adapter FaceID Plus).

    ``inner`` is the width of the tokens between both, ``seen`` the channels of the other encoder's tokens.
    PlusV2 adds the tokens of the vector alone (``shortcut``) to ``structure`` times those that have read.
    """

    def __init__(
        self,
        keys: tuple[str, str],
        feature: int,
        seen: int,
        width: int,
        tokens: int,
        *,
        inner: int,
        layers: Sequence[nn.Module],
        shortcut: bool,
        structure: float,
    ) -> None:
        super().__init__(keys[0], feature, inner, tokens, WIDENED * feature)
        self.reads, self.shortcut, self.structure = keys, shortcut, structure
        self.read_in, self.read_out = nn.Linear(seen, inner), nn.Linear(inner, width)
        self.layers = nn.ModuleList(layers)
        self.read_norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b tokens width] of vectors [b 1 d] and of tokens [b 1 t seen]."""
        vector, shown = features
        tokens = queries = super().stream(vector)
        shown = self.read_in(shown.flatten(1, -2))
        for layer in self.layers:
            queries = layer(queries, shown)
        read: Tensor = self.read_norm(self.read_out(queries))
        return tokens + self.structure * read if self.shortcut else read


class Answered(StreamEdit):
    """A projector that is shown ``empty`` [t d] where a row's last feature is dropped, that is zeros."""

    empty: Tensor

    def __init__(self, inner: StreamEdit, empty: Tensor) -> None:
        super().__init__(inner.name, inner.reads)
        self.inner = inner
        self.register_buffer("empty", empty, persistent=False)  # a feature of the artifact

    def stream(self, *features: Tensor) -> Tensor:
        """Return the inner one's tokens."""
        *others, feature = features
        dropped = (feature == 0).flatten(1).all(dim=1).view(-1, *[1] * (feature.dim() - 1))
        return self.inner.stream(*others, torch.where(dropped, self.empty.to(feature), feature))


class ImportedAdapter(ParallelAdapter):
    """A released IP-Adapter: the projector of its kind, and what an empty picture says beside."""

    id = "attention.imported_adapter"
    catalogue = ("image-adapter",)
    tiny = {"tokens": 2, "projector": "full", "empty": ""}

    projector: Projector = "linear"  # type: ignore[assignment]
    """How features become tokens: as in the plain IP-Adapter, in Plus ("perceiver"), in full-face ("full"), in
    FaceID ("face") or in FaceID Plus ("face-perceiver", which also reads ``"<key>.seen"`` [slots t d])."""
    inner: Annotated[int, Field(ge=1)] = 768
    """Channels of a perceiver's queries, or between the two maps of "face"."""
    seen: Annotated[int, Field(ge=1)] = 1280
    """Channels of the tokens that "face-perceiver" reads."""
    behind: Annotated[int, Field(ge=0)] = 0
    """Channels of tokens that are read with biases and added behind whole blocks, as FLUX's adapters do (their
    ``sites`` are joint); 0: they are as wide as the text, and are added where attention ends."""
    shortcut: bool = False
    """Whether a face's own tokens are added to those that have read, as FaceID PlusV2 was trained."""
    structure: Annotated[float, Field(ge=0.0)] = 1.0
    """With ``shortcut``: factor of the tokens that have read, that is of what the picture looks like."""
    empty: str = ""
    """Feature model whose tokens of an empty picture stand where the picture is dropped; "": zeros do."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        words = super().words()
        more = (f"feature:{self.key}.empty",) if self.empty else ()
        seen = (f"feature:{self.key}.seen",) if self.projector == "face-perceiver" else ()
        return replace(words, reads=(*words.reads, *seen), writes=(*words.writes, *more))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode an empty picture; the artifact keeps its tokens."""
        if moment != "start" or not self.empty or not subject.images:
            return None
        encoder = run.feature_model(self.empty)
        side = int(getattr(encoder, "size", 224))
        picture = torch.tensor(EMPTY).view(1, 3, 1, 1).expand(1, 3, side, side)
        name = f"{self.key}.empty"
        return Features(tensors={name: encoder.patches(picture.to(run.device))[0]}, keep=(name,))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the projector and one attention of its own per site."""
        fusion = (
            self._behind(run, features) if self.behind else super().fuse(run=run, features=features)
        )
        assert fusion is not None
        edits = fusion.edits
        if self.projector == "face-perceiver":
            self._check(features)
        if self.empty:
            empty = features.get(f"{self.key}.empty", self.id)[0]
            edits = tuple(Answered(e, empty) if isinstance(e, StreamEdit) else e for e in edits)
        return replace(fusion, edits=edits)

    def _behind(self, run: Run, features: Features) -> Fusion:
        feature = features.get(self.key, self.id).shape[-1]
        sites, places = run.sites(self.sites), run.sites("after_feed_forward")
        with run.seeded(f"{self.id}/{self.key}"):
            stream = self._projector(feature, self.behind)
            edits = behind_blocks(sites, places, self.key, self.behind, self.id)
        return Fusion(edits=(stream, *edits), strengths={f"{self.key}.scale": self.strength})

    def _check(self, features: Features) -> None:
        """Refuse tokens of an encoder of another width.

        Raises
        ------
        RecipeError
            Names both widths.
        """
        width = features.get(f"{self.key}.seen", self.id).shape[-1]
        if width != self.seen:
            raise RecipeError(
                f"{self.id}: its projector reads tokens of {self.seen} channels, and the encoder of feature "
                f"'{self.key}.seen' gives {width}: take the encoder that the adapter was trained with"
            )

    def _face_perceiver(self, feature: int, width: int) -> StreamEdit:
        layers = [
            PerceiverLayer(self.inner, self.heads, self.head_width) for _ in range(self.depth)
        ]
        return FacePerceiver(
            (self.key, f"{self.key}.seen"),
            feature,
            self.seen,
            width,
            self.tokens,
            inner=self.inner,
            layers=layers,
            shortcut=self.shortcut,
            structure=self.structure,
        )

    def _projector(self, feature: int, width: int) -> StreamEdit:
        if self.projector == "full":
            return FullTokens(self.key, feature, width)
        if self.projector == "face-perceiver":
            return self._face_perceiver(feature, width)
        if self.projector == "face":
            return FaceTokens(self.key, feature, width, self.tokens, self.inner)
        return super()._projector(feature, width)
