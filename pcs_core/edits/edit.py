"""What every kind of edit is: an ``nn.Module`` that acts at one stage, and says what binding it means.

A kind of edit is a class below :class:`Edit` in a file of its own. It names its ``STAGES``, says how
edits of the kind are bound to a network (``bind``), and answers what the core asks of every edit: what it
claims for itself, what must have one owner in a run, and what must be computed anew because of it. A
technique subclasses a kind and overrides exactly one stage method. Edits of techniques with a subject
axis keep every parameter stacked [S, ...] and gather by ``cond.subject``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment

Mode = Literal["fit", "sample", "both"]


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
    part
        The part of the network that it changes from inside ("denoiser", "text", "vae"), or "".
    group
        The name of the sequence edit on whose tokens alone it acts; "" where it acts on all.
    """

    STAGES: ClassVar[tuple[str, ...]] = ()
    LISTED: ClassVar[int] = 0
    """Place of the kind among a fusion's edits, so that a recipe's order of kinds changes no number."""
    BOUND: ClassVar[int] = 0
    """Place of the kind when edits are bound: what replaces parameters or layers comes first."""
    LARGE: ClassVar[bool] = False
    """True when it holds the network's own weights or layers anew: it is not kept ready between drawings."""
    PADDED: ClassVar[Mapping[str, int]] = {}
    """Tensor -> the axis along which zeros may be added without a change: a rank."""
    FACTORS: ClassVar[tuple[str, ...]] = ()
    """Buffers that are not stored, yet differ with a recipe's settings: a scale."""
    ACROSS_STEPS: ClassVar[bool] = False
    """True when it keeps what the network said in one call for a later one: no graph can hold it."""
    claims: tuple[str, ...] = ()
    part: str = ""
    group: str = ""

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

    @classmethod
    def bind(cls, edits: Sequence[Any], net: Attachment) -> None:
        """Plug ``edits`` of this kind into ``net.backbone``, in order.

        Whatever is changed is given back by a function handed to ``net.undo``: last bound, first undone.
        The default is for kinds that the loops ask themselves: nothing is bound.
        """

    @classmethod
    def binder(cls) -> type[Edit]:
        """Return the class whose ``bind`` is this kind's: kinds that share one are bound together."""
        return next(c for c in cls.__mro__ if issubclass(c, Edit) and "bind" in vars(c))

    def stage(self) -> str:
        """Return the one stage this edit acts at.

        Raises
        ------
        TypeError
            It overrides no stage method, or more than one.
        """
        base: Any = next(c for c in type(self).__mro__ if vars(c).get("STAGES"))
        stages = [s for s in base.STAGES if getattr(type(self), s) is not getattr(base, s)]
        if len(stages) != 1:
            raise TypeError(
                f"{type(self).__qualname__} must override exactly one of {', '.join(base.STAGES)}, "
                f"it overrides {', '.join(stages) or 'none'}"
            )
        return stages[0]

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return what no other use may claim: pairs of a place and what is claimed there."""
        return ()

    def sole_names(self) -> Iterable[tuple[str, str]]:
        """Return names that have one owner in a run: pairs of what is named, and its name."""
        return ()

    def placeholders(self) -> Iterable[str]:
        """Return the placeholders of prompts to which it alone gives a meaning."""
        return ()

    def touches_text(self) -> bool:
        """Return whether it changes what the text encoder says: what it trains is then encoded anew."""
        return self.part == "text"

    def text_reads(self) -> frozenset[str]:
        """Return on what else the encoded text depends through it: "level", the noise; "streams"."""
        return frozenset()

    def shapes_conditioning(self) -> bool:
        """Return whether the conditioning must be made again where it begins or ceases to act."""
        return self.touches_text()

    def changes_latents(self) -> bool:
        """Return whether the latents of a fit's examples are no constants because of it."""
        return False

    def key(self, subject: int = 0) -> str:
        """Return the middle of the parameters' names for ``subject``."""
        return self.name

    def owned(self) -> Mapping[str, Tensor]:
        """Return the tensors this edit owns, by parameter name ("lora/A"). Borrowed ones left out."""
        return {k.replace(".", "/"): v for k, v in self.state_dict(keep_vars=True).items()}

    def stored(self, key: str, tensor: Tensor, subject: int = 0) -> Tensor:
        """Return what an artifact of ``subject`` stores of the owned ``tensor`` called ``key``."""
        return tensor.detach()[subject] if self.stacked else tensor.detach()

    def restored(self, key: str, value: Tensor) -> Tensor:
        """Return the owned tensor called ``key`` of a one-subject edit from what was stored."""
        return value.unsqueeze(0) if self.stacked else value
