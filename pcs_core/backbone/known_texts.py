"""Keys and values of texts that a phase of a fit reads again and again, made once where they stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pcs_core.backbone.sites import select_sites
from pcs_core.edits.module import StandIn, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcs_core.backbone.protocol import Backbone

LAYERS = "attention.cross.k|attention.cross.v"
BYTES = 2**28
"""What is made of the texts of one phase takes at most so much memory; of more, nothing is kept."""


Made = Mapping[str, Tensor]
"""What each layer made of the rows of a table of texts, [n l d] by its name."""


class KnownTexts:
    """What the layers of cross-attention make of texts, looked up while these are shown.

    A layer looks up only where it is given the very tensor that :meth:`show` was: what an edit changes before
    it, or another loss asks about, is computed as ever.
    """

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._parts: tuple[tuple[Made, Tensor], ...] = ()
        self._layers: dict[str, Remembering] = {}

    def bind(self, backbone: Backbone, undo: Callable[[Callable[[], None]], None]) -> None:
        """Stand in for the layers of ``backbone``, inside of what edits put there later."""
        self._layers.clear()
        for site in select_sites(backbone.sites, LAYERS):
            layer: Any = backbone.parts["denoiser"].get_submodule(site.name)
            if isinstance(layer, nn.Linear):
                self._layers[site.name] = Remembering(layer, site.name, self)
                undo(stand_in(layer, self._layers[site.name]))

    @torch.no_grad()
    def make(self, text: Tensor) -> Made:
        """Return what each layer makes of ``text`` [n l d], of those whose weight is the network's and frozen.

        Nothing, where that takes more than :data:`BYTES`. A layer of another width reads what the network
        makes of the text first, and is left alone.
        """
        frozen = [
            (name, layer)
            for name, layer in self._layers.items()
            if layer.module.weight is layer.weight
            and not layer.weight.requires_grad
            and layer.module.in_features == text.shape[-1]
        ]
        wide = sum(layer.module.out_features for _, layer in frozen)
        if wide * text.shape[0] * text.shape[1] * text.element_size() > BYTES:
            return {}
        return {name: layer.base(text) for name, layer in frozen}

    def show(self, text: Tensor, *parts: tuple[Made, Tensor]) -> None:
        """Say that ``text`` [b l d] are these rows of these tables, one behind the other."""
        self._text, self._parts = text, parts

    def look_up(self, name: str, x: Tensor) -> Tensor | None:
        """Return what the layer ``name`` makes of ``x``, or None where it must compute it."""
        if x is not self._text or not all(name in made for made, _ in self._parts):
            return None
        rows = [made[name][at] for made, at in self._parts]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


class Remembering(StandIn):
    """Stands in for a layer's ``forward``; one whose weights are in few bits has one of its own below."""

    def __init__(self, module: nn.Linear, name: str, texts: KnownTexts) -> None:
        super().__init__(module)
        self.name, self.texts, self.weight = name, texts, module.weight

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Look up what the layer makes of ``x``, or compute it."""
        known = self.texts.look_up(self.name, x)
        if known is not None:
            return known
        return self.base(x, *args, **kwargs)
