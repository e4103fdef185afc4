"""Block edits: a module between two layers, in the residual stream of a network.

Where a family has such places it names them as sites (kinds :data:`PLACES`), and says there in which form
the stream flows and at which module. The edit may see it in another form, of clips also over time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from pcs_core.edits.edit import Edit
from pcs_core.edits.module import StandIn, stand_in
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

    from pcs_core.backbone.attach import Attachment
    from pcs_core.backbone.context import Context
    from pcs_core.data.conditioning import Conditioning
    from pcs_core.edits.site import Site

PLACES = (
    *("before_self", "after_self", "after_cross", "after_feed_forward"),
    *("before_temporal", "after_temporal"),
    *("after_transformer", "after_resnet", "after_block"),
)
"""Kinds of places: in a transformer block before and after each of its layers (those over time apart), and
behind a whole transformer, a resnet, or a block of several."""

Form = Literal["", "tokens", "grid", "time", "clip"]


class BlockEdit(Edit):
    """A module in the residual stream at one place: what it gives is added there, or replaces it.

    ``sees`` is the form of x that its stage is given and answers in: "tokens" [b n c], "grid" [b c h w],
    and on networks of clips "time" [b n t c] (n places, t frames) or "clip" [b c t h w]; "" is the form in
    which it flows (``site.stream``). ``cond`` has a row for each row of x: as tokens or grid, frames are
    rows of their own.
    """

    STAGES = ("add", "replace")
    LISTED, BOUND = 100, 35
    sees: ClassVar[Form] = ""

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site, self.part = site, site.part

    def add(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Return g(x), which is added to the stream. Zeros give exactly the base's picture."""
        return torch.zeros_like(x)

    def replace(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Return what flows on in place of x. Exclusive per place."""
        return x

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return the place, where it replaces the stream there."""
        return [(str(self.site), "stream")] if self.stage() == "replace" else ()

    @classmethod
    def bind(cls, edits: Sequence[BlockEdit], net: Attachment) -> None:
        """Put one chain on each place.

        Raises
        ------
        CapabilityError
            An edit is for a site that is no place in a stream, or sees frames where there are none.
        """
        chains: dict[str, list[BlockEdit]] = {}
        for edit in edits:
            name = edit.owner or type(edit).__name__
            if edit.site.kind not in PLACES:
                raise CapabilityError(
                    f"{name!r} cannot act at {edit.site}, a site of kind {edit.site.kind!r}: a block edit "
                    f"stands at a place in the residual stream ({', '.join(PLACES)})"
                )
            if edit.sees in ("time", "clip") and len(net.backbone.latent_shape) == 3:
                raise CapabilityError(
                    f"{name!r} sees frames over time (sees = {edit.sees!r}), and backbone "
                    f"{net.backbone.card.id!r} draws single pictures: use one that draws clips"
                )
            chains.setdefault(edit.site.name, []).append(edit)
        for here in chains.values():
            site = here[0].site
            root = net.backbone.parts[site.part]
            stream = BoundStream(root.get_submodule(site.layer), here, net.context)
            net.undo(stand_in(stream.module, stream))
            if site.entry:
                entry = BoundEntry(root.get_submodule(site.entry), stream)
                net.undo(stand_in(entry.module, entry))


class BoundStream(StandIn):
    """Stands in for the ``forward`` of the module at a place, and lets the edits see the stream there.

    ``entered`` is the input of the module
    ``site.entry`` from its call on until this module's own, never longer.
    """

    def __init__(self, module: nn.Module, edits: Sequence[BlockEdit], context: Context) -> None:
        super().__init__(module)
        self.context = context
        self.site = edits[0].site
        self.edits = list(edits)
        self.stages = {"stream": self.edits}
        self.entered: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; change its input, its output, or what its output is added to."""
        entered, self.entered = self.entered, None
        acting = [] if self.context.off else [e for e in self.edits if self.context.acts(e)]
        if not acting:
            return self.base(*args, **kwargs)
        if self.site.kind.startswith("before"):
            name = None if args else next(iter(kwargs))
            x = args[0] if name is None else kwargs.pop(name)
            return self.base(x + self._change(x, acting), *args[1:], **kwargs)
        y = self.base(*args, **kwargs)
        several = isinstance(y, tuple)
        output = y[self.site.item] if several else y
        if not self.site.entry:
            changed = output + self._change(output, acting)
        elif entered is None:
            raise RuntimeError(f"{self.site}: module {self.site.entry!r} was not called before it")
        else:
            changed = output + self._change(output + entered, acting)
        return _in_place_of(output, changed, y) if several else changed

    def _change(self, x: Tensor, acting: Sequence[BlockEdit]) -> Tensor:
        """Return what is added to the stream ``x``: of edits that change nothing, exactly zero."""
        cond = self.context.cond
        assert cond is not None
        total = torch.zeros_like(x)
        for edit in acting:
            changed = x + total
            view = View(edit.sees or self.site.stream, self.site, cond.rows, self.context.size)
            shown = view.shown(changed)
            if edit.stage() == "add":
                difference = view.back(edit.add(shown, cond.spread(shown.shape[0])), x)
            else:
                difference = (
                    view.back(edit.replace(shown, cond.spread(shown.shape[0])), x) - changed
                )
            total = total + difference.to(total.dtype)
        return total


class BoundEntry(StandIn):
    """Stands in for the ``forward`` of a module, and tells a stream what entered."""

    def __init__(self, module: nn.Module, stream: BoundStream) -> None:
        super().__init__(module)
        self.stream = stream

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the module as it was."""
        self.stream.entered = x
        return self.base(x, *args, **kwargs)


class View:
    """A stream in another form, and back.

    All forms go through the fullest one, [b t h w c]: ``rows`` of the conditioning, frames (1 in a
    picture), and the grid at the site, from the ``size`` of the latents (h, w) or (t, h, w).
    """

    def __init__(self, form: str, site: Site, rows: int, size: tuple[int, ...]) -> None:
        self.form, self.stream = form, site.stream
        # with time the rows are never folded, in whatever form it flows
        self.same = form == site.stream != "time"
        if not self.same:
            height, width = (-(-side // site.scale) for side in size[-2:])  # strides round up
            self.full = (rows, size[0] if len(size) == 3 else 1, height, width)

    def shown(self, x: Tensor) -> Tensor:
        """Return ``x`` in the form that is seen."""
        return x if self.same else self._from(self._full(x, self.stream), self.form)

    def back(self, y: Tensor, x: Tensor) -> Tensor:
        """Return an answer in the form of the stream ``x``."""
        return (
            y if self.same else self._from(self._full(y, self.form), self.stream).reshape(x.shape)
        )

    def _full(self, x: Tensor, form: str) -> Tensor:
        b, t, h, w = self.full
        if form == "tokens":
            return x.reshape(b, t, h, w, x.shape[-1])
        if form == "grid":
            return x.reshape(b, t, x.shape[1], h, w).movedim(2, -1)
        if form == "time":
            return x.reshape(b, h, w, t, x.shape[-1]).movedim(3, 1)
        return x.movedim(1, -1)

    def _from(self, full: Tensor, form: str) -> Tensor:
        b, t, h, w = self.full
        c = full.shape[-1]
        if form == "tokens":
            return full.reshape(b * t, h * w, c)
        if form == "grid":
            return full.movedim(-1, 2).reshape(b * t, c, h, w)
        if form == "time":
            return full.movedim(1, 3).reshape(b, h * w, t, c)
        return full.movedim(-1, 1)


def _in_place_of(old: Tensor, new: Tensor, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return ``outputs`` with ``new`` wherever ``old`` stands, in the skip connections too."""
    return tuple(
        _in_place_of(old, new, entry)
        if isinstance(entry, tuple)
        else (new if entry is old else entry)
        for entry in outputs
    )
