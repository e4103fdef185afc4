"""Edits: what goes into the network, and at which stage each kind acts.

An edit is an ``nn.Module`` that selects sites. The core binds it once per attachment; no pluggy
inside the network. A subclass overrides exactly one *stage* method; :meth:`Edit.stage` tells
which. Edits of techniques with a subject axis keep every parameter stacked [S, ...] and gather by
``cond.subject``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.conditioning import Conditioning

Mode = Literal["fit", "sample", "both"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the network.

    ``name`` is the module path, ``part`` denoiser, text or vae, ``kind`` self, cross, joint,
    temporal (attention) or linear, conv, norm, resnet, embedding, block (layers); ``scale`` is the
    downsampling of the grid there against the latents (1, 2, 4 ...); ``width`` the query or output
    width, ``context`` the width of keys' input, ``heads`` the number of heads.

    ``role`` says what it is for in any family: "attention.cross" is an attention site,
    "attention.cross.k" its layer that makes the keys ("q", "k", "v", "out"; of the text's side of a joint
    site "text_q" ...), "ff.in" and "ff.out" the layers of a feed-forward network; those over time begin with
    "temporal."; "" has no role. ``block`` is where it stands: "down.1", "mid", "up.0", "block.3".
    """

    name: str
    part: str
    kind: str
    scale: int = 1
    width: int = 0
    context: int = 0
    heads: int = 1
    shape: tuple[int, ...] = ()
    role: str = ""
    block: str = ""

    def __str__(self) -> str:
        return f"{self.part}:{self.name}"


@dataclass(slots=True)
class AttnState:
    """What an attention stage sees. Stages return a (changed) state.

    ``x`` [b n c] queries' input, ``context`` [b m d] keys' input; ``q`` [b n hd], ``k``, ``v``
    [b m hd] after projection, heads not split; ``bias`` [b|1 h|1 n m] added to the logits or None;
    ``probs`` [b h n m] only at the ``probs`` stage; ``out`` [b n hd] before the output projection.
    At a joint site ``x`` and ``context`` are the picture's and the text's tokens, and q, k, v and out
    [b n+m hd] hold both, the picture's first; k and v of the text are those rows behind.
    ``norm`` is what the network does to q and k after the stage "qkv", or None.
    ``project`` gives keys and values of a context, ``attend`` [b n hd] what the same queries read from
    another text [b m d] (or [b sites m d]: this layer's), edits of stage "qkv" in force.
    """

    site: Site
    x: Tensor
    context: Tensor
    heads: int
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    probs: Tensor | None = None
    out: Tensor | None = None
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    attend: Callable[[Tensor], Tensor] | None = None
    norm: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


class Edit(nn.Module):
    """Base of all edits.

    Attributes
    ----------
    name
        The middle of its parameters' names: ``"<technique>/<name>/<param>"``. A site or token.
    start, stop
        Part of the sampling (0 = pure noise, 1 = picture) in which it acts.
    mode
        Whether it acts in fit, in sample, or in both.
    owner
        The name of the use it belongs to; set by the core at merge.
    stacked
        True when every parameter has a leading subject axis.
    """

    STAGES: ClassVar[tuple[str, ...]] = ()
    PADDED: ClassVar[Mapping[str, int]] = {}
    """Tensor -> the axis along which zeros may be added without a change: a rank."""
    FACTORS: ClassVar[tuple[str, ...]] = ()
    """Buffers that are not stored, yet differ with a recipe's settings: a scale."""
    ACROSS_STEPS: ClassVar[bool] = False
    """True when it keeps what the network said in one call for a later one: no graph can hold it."""
    claims: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        *,
        start: float = 0.0,
        stop: float = 1.0,
        mode: Mode = "both",
        stacked: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.start, self.stop, self.mode = start, stop, mode
        self.owner = ""
        self.stacked = stacked

    def stage(self) -> str:
        """Return the one stage this edit acts at.

        Raises
        ------
        TypeError
            It overrides no stage method, or more than one.
        """
        base: Any = next(c for c in type(self).__mro__ if vars(c).get("STAGES"))
        own = [s for s in base.STAGES if getattr(type(self), s) is not getattr(base, s)]
        if len(own) != 1:
            raise TypeError(
                f"{type(self).__qualname__} must override exactly one of {', '.join(base.STAGES)}, "
                f"it overrides {', '.join(own) or 'none'}"
            )
        return own[0]

    def key(self, subject: int = 0) -> str:
        """Return the middle of the parameters' names for ``subject``."""
        return self.name

    def owned(self) -> Mapping[str, Tensor]:
        """Return the tensors this edit owns, by parameter name ("lora/A"). Borrowed ones left out."""
        return {k.replace(".", "/"): v for k, v in self.state_dict(keep_vars=True).items()}


class AttnEdit(Edit):
    """An edit of one attention site: qkv -> extra -> bias -> probs -> out."""

    STAGES = ("qkv", "extra", "bias", "probs", "out")
    kinds: ClassVar[tuple[str, ...]] = ("self", "cross", "temporal")
    """Kinds of sites it can act on. One that knows joint sites (see :class:`AttnState`) adds "joint"."""

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site = site

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Project differently: change ``state.q``, ``k``, ``v``."""
        return state

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Append keys and values."""
        return state

    def bias(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add to the logits. Stays on the fused path."""
        return state

    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Record or rewrite the attention maps. Leaves the fused path at this site only."""
        return state

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add a stream to ``state.out`` before the output projection."""
        return state


class WeightEdit(Edit):
    """An edit of one weighted layer: weight -> call -> residual."""

    STAGES = ("weight", "call", "residual")

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site = site

    def weight(self, weight: Tensor) -> Tensor:
        """Return W' = f(W). Exclusive per layer."""
        return weight

    def call(
        self, layer: Callable[[Tensor], Tensor], x: Tensor, cond: Conditioning | None
    ) -> Tensor:
        """Wrap the layer, whatever else it is given beside ``x``. Exclusive per layer.

        At an attention or block site it is the whole module: a block may give a tuple.
        """
        return layer(x)

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what is added to the layer's output: g(x) or g(y)."""
        return torch.zeros_like(y)


class LayerEdit(Edit):
    """Features before or after a conv, resnet, norm or block."""

    STAGES = ("before", "after")

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site = site

    def before(self, x: Tensor, cond: Conditioning | None) -> Tensor:
        """Return the input the layer gets."""
        return x

    def after(self, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return the output the layer gives."""
        return y


class TokenEdit(Edit):
    """What a placeholder means to the text encoder.

    ``tokens`` and ``hosts`` have an entry per subject: the placeholder, and the word whose ids stand
    there (never new ids: the output of the embedding table is edited at the span). ``count`` is the
    number of positions a placeholder takes.
    """

    STAGES = ("vocabulary", "layer", "output")
    timed: ClassVar[bool] = False
    """True when what it says depends on the noise level: the text is then encoded in every step."""

    def __init__(
        self, tokens: Sequence[str], *, count: int, hosts: Sequence[str], **options: object
    ) -> None:
        super().__init__(tokens[0], **options)  # type: ignore[arg-type]
        self.tokens, self.count, self.hosts = tuple(tokens), count, tuple(hosts)

    def key(self, subject: int = 0) -> str:
        """Return the placeholder of ``subject``."""
        return self.tokens[subject]

    def vocabulary(self) -> Tensor:
        """Return the rows [S, count, d] that stand at the token's span."""
        raise NotImplementedError

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows [S|b, layers, count, d], one set per cross-attention site of the denoiser.

        ``time`` [b] is the noise level of each row in [0, 1], 1 = pure noise; None where there is
        none (closed forms). ``subject`` [b] is each row's subject: a timed edit returns [b ...], and
        picks each row's own. With such an edit the text is encoded once per site.
        """
        raise NotImplementedError

    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return the encoder's output [b l d], changed; ``span`` [b count] holds positions or -1.

        ``cond`` holds the rows' ``subject``, ``time``, ``spans`` and ``streams``; its text is not
        there yet.
        """
        return text


class PixelEdit(Edit):
    """A change of pixels [b 3 h w] in [0, 1] before encoding or after decoding."""

    STAGES = ("input", "decoded")

    def input(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the images the VAE encodes; ``index`` [b] the reference each one is, or -1.

        A fit encodes them in every step then, inside autograd.
        """
        return images

    def decoded(self, images: Tensor) -> Tensor:
        """Return the images the user gets."""
        return images


class StreamEdit(Edit):
    """Conditioning tokens computed once per batch, inside autograd, from features of `extract`.

    ``reads`` names the features; ``name`` the stream (``cond.streams[name]``). A branch that drops
    the stream gets what it says to features of zeros.
    """

    STAGES = ("stream",)

    def __init__(self, name: str, reads: Sequence[str], **options: object) -> None:
        super().__init__(name, **options)  # type: ignore[arg-type]
        self.reads = tuple(reads)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b n d] from one [b ...] tensor per name in ``reads``."""
        raise NotImplementedError


class BranchEdit(Edit):
    """A control branch: a network beside the denoiser whose residuals are added to its blocks.

    Residuals of all branches add up. ``name`` is the part its own sites carry (``branch:<name>``).
    """

    STAGES = ("residuals",)

    def residuals(
        self, latents: Tensor, time: Tensor, cond: Conditioning
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return residuals of the down blocks (in order) and of the middle block."""
        raise NotImplementedError


class HeadEdit(Edit):
    """A module that trains but plugs into nothing: a discriminator, a canvas, a covariance.

    Reached through the technique's own ``fuse`` closure or ``run.heads[name]``; stored with the
    artifact.
    """

    STAGES = ("head",)

    def stage(self) -> str:
        """Return ``"head"``: there is nothing to override."""
        return "head"


class SwapEdit(Edit):
    """Owned parameters that stand in for a part's own while attached (full fine-tuning).

    ``targets`` maps a parameter path inside ``part`` to the owned parameter. Attaching swaps
    pointers, so restoring is exact by construction and nothing recompiles.
    """

    STAGES = ("swap",)

    def __init__(self, part: str, base: Mapping[str, nn.Parameter], **options: object) -> None:
        super().__init__(part, **options)  # type: ignore[arg-type]
        self.part = part
        self.base = dict(base)
        self.paths = tuple(base)
        self.values = nn.ParameterList(
            [nn.Parameter(p.detach().to(torch.float32).clone()) for p in base.values()]
        )

    def stage(self) -> str:
        """Return ``"swap"``: there is nothing to override."""
        return "swap"

    def targets(self) -> Mapping[str, nn.Parameter]:
        """Return parameter path -> owned parameter."""
        return dict(zip(self.paths, self.values, strict=True))

    def owned(self) -> Mapping[str, Tensor]:
        """Return the owned parameters under their paths in the network."""
        return self.targets()


class InjectEdit(Edit):
    """A change of the module tree of ``part`` made by another library (peft), exactly undone.

    Its binding is :meth:`inject`; ``active(False)`` must give the base network.
    """

    STAGES = ("inject",)

    def __init__(self, part: str, name: str, **options: object) -> None:
        super().__init__(name, **options)  # type: ignore[arg-type]
        self.part = part

    def stage(self) -> str:
        """Return ``"inject"``."""
        return "inject"

    def inject(self, root: nn.Module) -> None:
        """Change ``root``."""
        raise NotImplementedError

    def eject(self, root: nn.Module) -> None:
        """Restore ``root``: modules, keys, order, ``requires_grad``."""
        raise NotImplementedError

    def active(self, on: bool) -> None:
        """Switch the change on or off without touching the tree."""
        raise NotImplementedError

    def settle(self) -> None:
        """Called on every injected edit after the last injection (a later one may silence it)."""


@dataclass(frozen=True, slots=True)
class Word:
    """A placeholder that is plain text to the tokenizer: ``token`` becomes ``text``.

    ``noun`` is not repeated when it already follows the placeholder in the prompt. ``subject`` is the
    index of the subject whose prompts it applies to, or None for all.
    """

    token: str
    text: str
    noun: str = ""
    subject: int | None = None
