"""What the layers of a personalization read while it draws, as Gram matrices (for gradient fusion)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, Fusion

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Run

Layer = tuple[str, str]
"""A layer by part and name."""
Grams = dict[Layer, "Tensor"]
"""X^T X [in in], fp64, of all rows X that a layer read."""


def add_rows(grams: Grams, layer: Layer, rows: Tensor) -> None:
    """Add ``rows`` [n in] to a layer's Gram matrix: every row counts alike, whoever gave it."""
    x = rows.detach().reshape(-1, rows.shape[-1]).double().cpu()
    grams[layer] = grams.get(layer, 0) + x.T @ x


def up_to_the_end(ids: Tensor, end: int) -> Tensor:
    """Return which positions [b l] of ``ids`` stand up to the first end token: the rest is padding."""
    ended = (ids == end).cumsum(1)
    return (ended == 0) | ((ended == 1) & (ids == end))


@contextmanager
def listening(backbone: Any, layers: Iterable[Layer], *, padding: bool = True) -> Iterator[Grams]:
    """Sum the Gram matrices of the inputs of ``layers``; nothing is left behind.

    Without ``padding`` the layers are the text encoder's, and positions behind the end of a prompt are left
    out. The encoder looks backwards alone, so that padding changes no position in front of it.
    """
    grams: Grams = {}
    shown: list[Tensor] = []
    handles = []

    def read(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        shown[:] = [up_to_the_end(ids, end)]

    def listen(layer: Layer) -> Any:
        def hear(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            add_rows(grams, layer, x if padding else x[shown[0].to(x.device)])

        return hear

    end = backbone.tokenizer.end
    try:
        if not padding:
            text = backbone.parts["text"]
            handles.append(text.register_forward_pre_hook(read, with_kwargs=True))
        for part, name in layers:
            module = backbone.parts[part].get_submodule(name)
            handles.append(module.register_forward_pre_hook(listen((part, name))))
        yield grams
    finally:
        for handle in handles:
            handle.remove()


HEARD: list[Grams] = []
"""Where :class:`WordListener` writes: a technique is frozen."""


class Hearer(AttnEdit):
    """Keeps what keys and values of one site read of a concept's words and of the end of the prompt."""

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Listen, and change nothing."""
        length = state.context.shape[1]
        spans = [v for k, v in cond.spans.items() if k.startswith("concept.")]
        places = torch.cat(spans, dim=1).to(state.context.device)
        # a second tokenizer's positions stand behind the first one's length
        places = torch.where(places < length, places, -1)
        # the prompts end with the concept: its end token is the position behind
        ends = places.amax(1, keepdim=True) + 1
        positions = torch.cat([places, ends], dim=1)
        for row, row_positions in zip(state.context, positions, strict=True):
            kept = row_positions[(row_positions >= 0) & (row_positions < length)]
            for made in ("to_k", "to_v"):
                add_rows(HEARD[-1], ("denoiser", f"{self.site.name}.{made}"), row[kept])
        return state


class WordListener(Technique):
    """Listens at every cross-attention site. It has no id: no recipe can name it."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Put a hearer on each site."""
        return Fusion(edits=tuple(Hearer(site) for site in run.sites("cross")))


@contextmanager
def hearing() -> Iterator[Grams]:
    """Collect what a :class:`WordListener` among the uses hears."""
    HEARD.append({})
    try:
        yield HEARD[-1]
    finally:
        HEARD.pop()


def summed(grams: Sequence[Mapping[Layer, Tensor]], layer: Layer) -> list[Tensor]:
    """Return each personalization's matrix of a layer."""
    return [matrices[layer] for matrices in grams]
