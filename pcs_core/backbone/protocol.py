"""What the engine asks of a backbone. Families implement it; techniques never see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from pcs_core.data import BackboneCard, Conditioning, Level, Site
    from pcs_core.edits import AttentionChain


class Tokenizer(Protocol):
    """Text to ids. ``length`` is the fixed length of a prompt, start and end included.

    ``start`` is -1 where a prompt begins with no such id. A tokenizer may have ``beside``: those of
    further text encoders, whose ids stand behind its own. It may say ``windows``: ``encode_ids`` then takes
    ids [b k*length] too, k windows of a longer text, and returns text [b k*length d].
    """

    length: int
    start: int
    end: int
    pad: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without start, end and padding."""

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is encoded as one existing vocabulary entry."""


class Process(Protocol):
    """What the network speaks: levels, what corrupts latents, and what its output means.

    ``continuous`` is False where latents are token ids: no inversion, no mixing of latents.
    """

    @property
    def continuous(self) -> bool:
        """Whether latents may be mixed and inverted."""

    @property
    def prediction(self) -> str:
        """What the network predicts: "epsilon", "v_prediction", "flow" or "tokens"."""

    @property
    def times(self) -> int:
        """Number of training times."""

    def level(self, time: Tensor) -> Level:
        """Return the level of integer training times [b]."""

    def fraction(self, level: Level) -> Tensor:
        """Return the noise level of each row [b] in [0, 1], 1 = nothing left."""

    def at(self, fraction: Tensor) -> Tensor:
        """Return the training times of noise levels [b] in [0, 1]."""

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Return ``count`` training times, as the network was trained on them."""

    def corrupt(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return latents at ``level``; ``noise`` is unit Gaussian of their shape."""

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return what the network should answer."""

    def error(self, output: Tensor, target: Tensor, noisy: Tensor) -> Tensor:
        """Return the error per element, whose mean over a row is the row's loss."""

    def denoised(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return x0 in fp32 from the network's output."""

    def native(self, x0: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return the network's quantity from x0: what the scheduler is fed."""


class Sampler(Protocol):
    """One copy of a scheduler for one sampling run. Stateful: ``advance`` once per step, in order."""

    @property
    def times(self) -> Sequence[Any]:
        """The scheduler's own timesteps (not pairwise sigmas: Heun-like ones differ)."""

    def start(self, noise: Tensor) -> Tensor:
        """Return the first latents from unit noise."""

    def show(self, latents: Tensor, time: Any) -> Tensor:
        """Return the latents as the network is shown them."""

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the scheduler's own latents from shown ones: the inverse of ``show``."""

    def level(self, index: int, rows: int) -> Level:
        """Return the level of the shown latents at step ``index``."""

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the latents of the next step, from the network's native quantity."""


class Backbone(Protocol):
    """A frozen text-to-image or text-to-video network with named sites.

    ``latent_shape`` is [c h w], of clips [c t h w]; where it has frames, images are [n 3 t h w]
    everywhere (a picture [n 3 h w] is a clip of one frame).

    ``at(height, width)`` may let it draw pictures of another size in pixels from now on: ``card.size`` and
    ``latent_shape`` say so, and what it cannot draw is a CapabilityError that names the multiples it needs.

    ``text_width`` may say how wide the text is where it is not as wide as the token table, ``text_widths`` how
    wide what each of several encoders says is where they stand side by side in it.

    ``bind_sequence(edits, net)`` may append the tokens of sequence edits to those that the denoiser reads, and
    returns what stops it.

    A deployment may have more: ``bind_fusion(fusion, context)`` takes note of what an attachment plugs in
    and returns what forgets it, ``feature_model(id)`` and ``adapter(system)`` give what it was exported
    with, or None.
    """

    @property
    def card(self) -> BackboneCard:
        """Which network it is, by id and hash."""

    @property
    def process(self) -> Process:
        """What its denoiser speaks."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into ids."""

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's dtype."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one picture's latents [c h w], or of a clip's [c t h w]."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part: denoiser, text, vae."""

    @property
    def sites(self) -> Sequence[Site]:
        """Every site of every part, named on the bare network."""

    @property
    def embedding(self) -> nn.Module:
        """The text encoder's token table (output [b l d]).

        Of several encoders, the tables side by side; it may have ``words(text)`` [n d] then.
        """

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it exactly."""

    def bind_text_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Do the same in the text encoder, where its ``sites`` name attention (kind "self", part "text")."""

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return the layer that makes the "q", "k", "v" or "out" of an attention site."""

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Return a new trainable control network for this denoiser, starting at no effect.

        It is called with latents [b c h w], time [b], text [b l d] and an image [b channels H W] in
        [0, 1] at picture size, and returns residuals of the down blocks and of the middle block.
        ``width`` 1 copies the denoiser's own weights (ControlNet, arXiv:2302.05543); less makes a
        narrower network from scratch.

        Raises
        ------
        CapabilityError
            This family has none.
        """

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return a small decoder: latents [n c h w] to images [n 3 h w] in [0, 1], in place of ``decode``.

        ``location`` is a folder or hub id of one; "" is the one given with the backbone.

        Raises
        ------
        CapabilityError
            This family takes none, none is given, or it does not fit the latents.
        InputError
            It does not load.
        """

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d] for ids [b l]; of several windows the first one's pooled."""

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std [n c h w] of the latents of images [n 3 h w] in [0, 1], scaled.

        In the caller's grad mode.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the network's native output [b c h w]. Pure.

        ``residuals`` are added to the down blocks' outputs (in order) and the middle block's.
        """

    def sampler(self, scheduler: str, steps: int) -> Sampler:
        """Return a fresh sampler."""

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``, or stop doing so."""
