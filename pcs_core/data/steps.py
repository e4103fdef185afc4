"""What the loops show to techniques: fit steps, sample steps, losses, evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data.conditioning import Conditioning
    from pcs_core.data.fusion import Branch, GuidanceTerm
    from pcs_core.data.masks import Masks


class Level(NamedTuple):
    """A noise level, a row each: x = alpha * x0 + sigma * noise. All [b].

    ``time`` is what the network is told, in its own unit. It stands apart from alpha and sigma:
    inversion converts at one level and tells the network another.
    """

    alpha: Tensor
    sigma: Tensor
    time: Tensor

    def like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma shaped to broadcast over ``x`` [b ...], in fp32."""
        shape = (-1, *[1] * (x.dim() - 1))
        return self.alpha.float().view(shape), self.sigma.float().view(shape)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error per element, fp32."""
    return (output.float() - target.float()).square()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One call of the network. ``x0`` [b c h w] fp32, ``output`` its native quantity, ``tape`` maps by site.

    On a network of tokens ``x0`` are logits [b v h w], and of clips every tensor is [b c t h w].
    """

    x0: Tensor
    output: Tensor
    tape: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loss:
    """A named loss term. ``value`` [b] per batch row; ``rows`` [b] bool, those it speaks about.

    The core applies example weights, takes the mean over these rows within a subject and the sum
    over subjects, and multiplies by ``weight``.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    rows: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one fit step. ``latents`` [b c h w]; ``subject`` [b] long; ``weight`` [b].

    ``roles``, ``captions`` and ``index`` (the reference it comes from, or -1) have one entry per
    row. ``features`` [b ...] what streams read, a row each; ``extra`` [b ...] what examples carry by
    name (cameras, codes); ``regions`` [b 1 h w] their masks by name, at the size of the latents,
    zeros in a row without that region; ``masks`` [b 1 h w] what weighs the error.
    """

    latents: Tensor
    subject: Tensor
    weight: Tensor
    roles: tuple[str, ...]
    captions: tuple[str, ...]
    index: tuple[int, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    subjects: int = 1
    features: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    regions: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, role: str) -> Tensor:
        """Return a [b] bool tensor, True where a row has ``role``."""
        return self.subject.new_tensor([r == role for r in self.roles]).bool()


def no_text(text: str | Sequence[str], model: str = "self") -> Conditioning:
    """Refuse to encode a text: the loop that made the step cannot.

    Raises
    ------
    NotImplementedError
        Always.
    """
    raise NotImplementedError(f"this loop encodes no text of its own, as {text!r}")


@dataclass(frozen=True)
class FitStep:
    """One fit step as `mask` (moment batch) and `regularize` see it.

    ``noisy`` [b c h w] = alpha * latents + sigma * noise (clips [b c t h w]; tokens [b 1 h w], some
    masked). ``output``, ``target``, ``error``, ``x0``
    and ``tape`` are computed when first read, once. ``encode(text)`` is the conditioning of one text
    (placeholders allowed) for every row, or of a list with a text for each, in the caller's grad mode;
    ``evaluate(latents, level, cond)`` asks the network. With ``model="base"`` both are of the network without
    edits, with the name of a further model (``[[model]]``) of that one: each reads texts that it encoded.
    ``stop(subject)`` ends this phase for one subject after this step, ``stop()`` for all; where
    several processes train, it is refused.
    """

    index: int
    phase: str
    batch: Batch
    level: Level
    noise: Tensor
    noisy: Tensor
    cond: Conditioning
    forward: Callable[[], Evaluation]
    compute_target: Callable[[], Tensor]
    evaluate: Callable[..., Evaluation]
    stop: Callable[..., None]
    read_masks: Callable[[FitStep], Masks]
    progress: float = 0.0
    compute_error: Callable[[Tensor, Tensor], Tensor] = squared_error
    encode: Callable[..., Conditioning] = no_text

    @cached_property
    def evaluation(self) -> Evaluation:
        """The network's answer to the noisy latents."""
        return self.forward()

    @property
    def output(self) -> Tensor:
        """The network's native output [b c h w]."""
        return self.evaluation.output

    @property
    def x0(self) -> Tensor:
        """The denoised latents [b c h w], fp32."""
        return self.evaluation.x0

    @property
    def tape(self) -> Mapping[str, Tensor]:
        """Attention maps by site, where a recorder or ``record`` asked for them."""
        return self.evaluation.tape

    @cached_property
    def target(self) -> Tensor:
        """What the network should have said [b c h w]."""
        return self.compute_target()

    @cached_property
    def masks(self) -> Masks:
        """Masks of this batch at latent size, the examples' own and those of techniques."""
        return self.read_masks(self)

    @cached_property
    def error(self) -> Tensor:
        """Error per element, fp32, not masked: squared [b c h w]; of tokens, cross-entropy [b 1 h w]."""
        return self.compute_error(self.output, self.target)


class Prediction(NamedTuple):
    """What `sample` returns: the guided x0 [b c h w]."""

    x0: Tensor


@dataclass
class SampleStep:
    """One sampling step. Not frozen: ``latents`` and ``terms`` may be set before the yield.

    ``latents`` are as the network is shown them (scaled); ``level`` is theirs, ``next_level`` the
    one after. ``terms`` are the guidance terms with ``[sample] scale`` first; a branch that no term
    needs is not evaluated. ``branch`` returns the conditioning of a branch; ``predict(latents)`` the
    guided x0 on any latents of this level. ``acting`` says of each edit whether it acts in this step:
    what was kept of a step with other edits is stale.
    """

    index: int
    count: int
    latents: Tensor
    level: Level
    next_level: Level | None
    terms: Sequence[GuidanceTerm]
    masks: Masks
    branch: Callable[[Branch], Conditioning]
    predict: Callable[..., Tensor]
    evaluate: Callable[..., Evaluation]
    rng: Generator
    scratch: dict[str, Any] = field(default_factory=dict)
    acting: tuple[bool, ...] = ()
    ask: Callable[[Branch], Tensor] | None = None

    @property
    def progress(self) -> float:
        """0 at the first step, approaching 1."""
        return self.index / self.count

    def predicted(self, branch: Branch) -> Tensor:
        """Return the x0 [b c h w] of one branch at ``latents``, each branch evaluated once in a step.

        What the guided prediction has evaluated costs nothing after the yield; what is asked for before
        it, the guided prediction finds. Without gradients to the latents: ``evaluate`` gives those.
        """
        assert self.ask is not None
        return self.ask(branch)

    @property
    def positive(self) -> Tensor:
        """The x0 [b c h w] of the positive branch alone, before guidance (see :meth:`predicted`)."""
        from pcs_core.data.fusion import Branch

        return self.predicted(Branch("positive"))
