"""The services a technique finds in ``run``. Implemented in the engine; read-only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from pcs_core.data.features import Features
    from pcs_core.data.layout import Layout
    from pcs_core.data.subject import Subject
    from pcs_core.edits import HeadEdit, Site


class Run(Protocol):
    """What hooks may ask for. Attributes are read-only."""

    @property
    def device(self) -> torch.device:
        """Where tensors live."""

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype."""

    @property
    def features(self) -> Features:
        """Features found so far (complete from `fuse` on)."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def phase(self) -> str:
        """The phase that is about to begin, where `extract` is called at moment "phase"; else empty."""

    @property
    def layout(self) -> Layout | None:
        """Where things should stand in the pictures being drawn, if the user said so."""

    @property
    def heads(self) -> Mapping[str, HeadEdit]:
        """The fusion's heads by name, from `fuse` on."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the backbone's pictures."""

    @property
    def frames(self) -> int:
        """Frames of the backbone's clips [3 t h w], 0 where it draws pictures [3 h w]."""

    @property
    def text_width(self) -> int:
        """Width d of the text [b l d] that the denoiser reads; that of the token table may be another."""

    def sites(self, glob: str, kind: str = "*", part: str = "denoiser") -> Sequence[Site]:
        """Return the sites whose name matches ``glob`` and whose kind matches ``kind``.

        Kinds: self, cross, joint, temporal (attention); linear, conv, norm, resnet, embedding, block (layers).
        ``glob`` may be a shorthand ("cross", "self", "joint", "temporal", "attention" for all), a role that
        means the same in every family ("attention.cross.k", "ff.in", "temporal.*"), either at a place
        ("cross@up.1", "attention.*.q@scale=2"), or a glob over module names, several joined by ``|``.
        """

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return the base's layer that makes the "q", "k", "v" or "out" of an attention site."""

    def control_network(self, channels: int, width: float = 1.0) -> nn.Module:
        """Return a new trainable control network (see :class:`pcs_core.backbone.Backbone`)."""

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return a small decoder of latents (see :class:`pcs_core.backbone.Backbone`)."""

    def parameters(self, part: str, glob: str = "*") -> Mapping[str, nn.Parameter]:
        """Return the base parameters of a part by path."""

    def trained(self, glob: str) -> Mapping[str, Tensor]:
        """Return what trains in this fit, as it is now, by ``"<use>/<site or token>/<param>"``.

        With gradients; parameters of stacked edits are [S ...]. What replaces the network's own is whole.
        """

    def started(self, glob: str) -> Mapping[str, Tensor]:
        """Return the same as it was before any step, without gradients; made once."""

    def embed_words(self, text: str) -> Tensor:
        """Return the token embeddings [n d] of ``text``, without start and end."""

    def vocabulary(self) -> Tensor:
        """Return the whole token table [v d], fp32; a backbone of several vocabularies refuses."""

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        scale: float | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Return pictures [n 3 h w] in [0, 1] drawn by the frozen base."""

    def draw_personalized(
        self, system: str, subject: Subject, prompts: Sequence[str], *, seed: int
    ) -> Tensor:
        """Return pictures [n 3 h w] in [0, 1] drawn after ``system`` personalised the base with ``subject``.

        The whole fit of that system, beside this one; prompts hold the subject's token.
        """

    def encode(self, images: Tensor) -> Tensor:
        """Return the mean latents [n c h w] of images [n 3 h w], in the caller's grad mode."""

    def invert(self, image: Tensor, prompt: str, *, steps: int, scale: float = 1.0) -> Tensor:
        """Return the DDIM trajectory [steps+1 c h w] of ``image`` [3 h w], from it to pure noise.

        Under the frozen base and ``prompt``. DDIM inversion: arXiv:2010.02502, section 4.3.
        """

    def cached(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return tensors kept in the work folder under ``name``, made once."""

    def init_rng(self, subject: int, name: str) -> Generator:
        """Return a CPU generator for the start value of ``name``.

        It is the same for this subject alone or among others.
        """

    def seeded(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which new modules start the same in every run of this seed."""

    def subject_rng(self, subject: int, purpose: str) -> Any:
        """Return a ``random.Random`` of this subject for ``purpose``."""

    def feature_model(self, id: str) -> Any:
        """Return a frozen shared model by id."""

    def dataset(self, id: str) -> Any:
        """Return a data set by id."""

    def log(self, message: str) -> None:
        """Tell the user something."""
