"""FLUX's blocks with further tokens beside the picture's: their places, their modulation, what they read.

A block gives all tokens of a stream one modulation. Tokens that are told another noise level are modulated by
themselves here, and meet the others in attention alone (OminiControl, arXiv:2411.15098, section 3; the authors'
``transformer_forward``). Tokens of the picture's level are the case of FLUX.1 Kontext.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb

from pcs_core.data import AttnEdit, AttnState
from pcs_diffusers.flux_tokens import PATCH, grid_ids, packed

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.backbone.context import Context
    from pcs_core.data import Conditioning, SequenceEdit

Keys = Mapping[str, tuple["Tensor", "Tensor"]]
"""Attention module -> keys and values [b k hd], as they are read: normalised and turned by their places."""


TIMES = 1000
"""What the pure noise's time is called."""


class Group(NamedTuple):
    """Tokens that go through the blocks together: latents packed [b n c], places [n 3], modulation [b d]."""

    name: str
    tokens: Tensor
    places: Tensor
    embedded: Tensor


@dataclass(frozen=True, slots=True)
class Spans:
    """What attention must know of a call: names and lengths of the groups, the picture's first, and ``known``.

    ``known`` are keys and values of tokens that are not in the sequence of this call.
    """

    groups: tuple[tuple[str, int], ...] = ()
    known: Keys | None = None


def spans_of(context: Context) -> Spans | None:
    """Return what the call in force knows of further tokens, or None."""
    spans: Spans | None = context.sequence
    return spans


class AppendedKeys(AttnEdit):
    """Appends the keys and values of tokens that are not in the sequence of a call. Owns nothing."""

    kinds = ("joint",)

    def __init__(self, site: Any, context: Context) -> None:
        super().__init__(site)
        self.spans = lambda: spans_of(context)

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Append them, if there are any."""
        spans = self.spans()
        if spans is not None and spans.known is not None:
            k, v = spans.known[self.name]
            state.k = torch.cat([state.k, k.to(state.k)], dim=1)
            state.v = torch.cat([state.v, v.to(state.v)], dim=1)
        return state


def within(
    context: Context, name: str, function: Callable[..., Any], *args: Any, **named: Any
) -> Any:
    """Call a module for the tokens of group ``name`` alone: edits of other tokens do not act."""
    before, context.group = context.group, name
    try:
        return function(*args, **named)
    finally:
        context.group = before


def by_group(context: Context, layer: Callable[..., Any], x: Tensor, lead: int = 0) -> Tensor:
    """Return what ``layer`` says of tokens [b n c], group by group; ``lead`` tokens of text are in front."""
    spans = spans_of(context)
    if spans is None or len(spans.groups) < 2:
        said: Tensor = layer(x)
        return said
    (first, length), *others = spans.groups
    names, lengths = [first, *(n for n, _ in others)], [length + lead, *(n for _, n in others)]
    parts = zip(names, x.split(lengths, dim=1), strict=True)
    return torch.cat([within(context, name, layer, part) for name, part in parts], dim=1)


def through_blocks(
    transformer: Any, context: Context, groups: Sequence[Group], text: Tensor
) -> Tensor:
    """Return what the network says of the first group's tokens [b n c]; all and the text [b m d] meet."""
    sizes = [(g.name, g.tokens.shape[1]) for g in groups]
    said = transformer.context_embedder(text)
    origin = torch.zeros(said.shape[1], 3, device=said.device)
    rotation = transformer.pos_embed(torch.cat([origin, *(g.places for g in groups)]))
    hidden = [within(context, g.name, transformer.x_embedder, g.tokens) for g in groups]
    embedded = [g.embedded for g in groups]
    before = context.sequence
    context.sequence = Spans(tuple(sizes), None if before is None else before.known)
    recompute = torch.is_grad_enabled() and transformer.gradient_checkpointing
    step = transformer._gradient_checkpointing_func if recompute else _called
    names = [g.name for g in groups]
    try:
        for block in transformer.transformer_blocks:
            said, *hidden = step(
                _two_streams, block, context, names, embedded, rotation, said, *hidden
            )
        for block in transformer.single_transformer_blocks:
            said, *hidden = step(
                _one_stream, block, context, names, embedded, rotation, said, *hidden
            )
    finally:
        context.sequence = before
    output: Tensor = transformer.proj_out(transformer.norm_out(hidden[0], embedded[0]))
    return output


def keys_alone(transformer: Any, context: Context, group: Group) -> Keys:
    """Return keys and values at every attention of tokens that read themselves alone."""
    read: dict[str, tuple[Tensor, Tensor]] = {}
    rotation = transformer.pos_embed(group.places)

    def run() -> None:
        x = transformer.x_embedder(group.tokens)
        for number, block in enumerate(transformer.transformer_blocks):
            normed, *modulation = block.norm1(x, emb=group.embedded)
            seen, k, v = _alone(block.attn, normed, rotation)
            read[f"transformer_blocks.{number}.attn"] = (k, v)
            seen = block.attn.to_out[1](block.attn.to_out[0](seen))
            x = _fed_forward(block.norm2, block.ff, x, seen, modulation)
        for number, block in enumerate(transformer.single_transformer_blocks):
            normed, gate = block.norm(x, emb=group.embedded)
            seen, k, v = _alone(block.attn, normed, rotation)
            read[f"single_transformer_blocks.{number}.attn"] = (k, v)
            x = _joined(block, context, group.name, x, normed, gate, seen)

    before, context.sequence = context.sequence, None
    try:
        within(context, group.name, run)
    finally:
        context.sequence = before
    return read


def _called(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _two_streams(
    block: Any,
    context: Context,
    names: Sequence[str],
    embedded: Sequence[Tensor],
    rotation: Any,
    text: Tensor,
    *hidden: Tensor,
) -> tuple[Tensor, ...]:
    """Return text [b m c] and each group's tokens [b n c] behind a block of two streams."""
    heard, *modulation = block.norm1_context(text, emb=embedded[0])
    normed = [
        within(context, n, block.norm1, h, emb=e)
        for n, h, e in zip(names, hidden, embedded, strict=True)
    ]
    seen, read = block.attn(
        hidden_states=torch.cat([entry[0] for entry in normed], dim=1),
        encoder_hidden_states=heard,
        image_rotary_emb=rotation,
    )
    parts = seen.split([h.shape[1] for h in hidden], dim=1)
    behind = [
        within(context, name, _fed_forward, block.norm2, block.ff, h, part, entry[1:])
        for name, h, part, entry in zip(names, hidden, parts, normed, strict=True)
    ]
    text = _fed_forward(block.norm2_context, block.ff_context, text, read, modulation)
    return _bounded(text), *behind


def _one_stream(
    block: Any,
    context: Context,
    names: Sequence[str],
    embedded: Sequence[Tensor],
    rotation: Any,
    text: Tensor,
    *hidden: Tensor,
) -> tuple[Tensor, ...]:
    """Return text [b m c] and each group's tokens [b n c] behind a block of one stream."""
    length = text.shape[1]
    streams = [torch.cat([text, hidden[0]], dim=1), *hidden[1:]]
    normed = [
        within(context, n, block.norm, h, emb=e)
        for n, h, e in zip(names, streams, embedded, strict=True)
    ]
    seen = block.attn(
        hidden_states=torch.cat([n for n, _ in normed], dim=1), image_rotary_emb=rotation
    )
    parts = seen.split([h.shape[1] for h in streams], dim=1)
    first, *others = (
        _joined(block, context, name, h, entry[0], entry[1], part)
        for name, h, entry, part in zip(names, streams, normed, parts, strict=True)
    )
    return first[:, :length], first[:, length:], *others


def _fed_forward(
    norm: Any, layer: Any, x: Tensor, seen: Tensor, modulation: Sequence[Tensor]
) -> Tensor:
    """Return tokens [b n c] behind attention and the feed-forward layer of a block of two streams."""
    gate, shift, scale, gate_behind = (m[:, None] for m in modulation)
    x = x + gate * seen
    moved: Tensor = x + gate_behind * layer(norm(x) * (1 + scale) + shift)
    return moved


def _joined(
    block: Any, context: Context, name: str, x: Tensor, normed: Tensor, gate: Tensor, seen: Tensor
) -> Tensor:
    """Return tokens [b n c] behind a block of one stream, whose layers act at once."""

    def moved() -> Tensor:
        wide = block.act_mlp(block.proj_mlp(normed))
        return x + gate[:, None] * block.proj_out(torch.cat([seen, wide], dim=2))

    return _bounded(within(context, name, moved))


def _bounded(x: Tensor) -> Tensor:
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x


def _alone(attn: Any, x: Tensor, rotation: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return what tokens [b n c] read of themselves, and their keys and values, [b n hd] each."""
    heads = (attn.heads, -1)
    q, k, v = (layer(x).unflatten(-1, heads) for layer in (attn.to_q, attn.to_k, attn.to_v))
    q, k = (
        apply_rotary_emb(norm(t), rotation, sequence_dim=1)
        for norm, t in ((attn.norm_q, q), (attn.norm_k, k))
    )
    seen = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return seen.transpose(1, 2).flatten(2), k.flatten(2), v.flatten(2)


class KeptKeys:
    """Keys and values that stay as they are from step to step of a drawing, while what made them does."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()
        self.made_of: tuple[Tensor, ...] = ()
        self.keys: Keys = {}

    def get(
        self, state: tuple[Any, ...], tensors: Sequence[Tensor], make: Callable[[], Keys]
    ) -> Keys:
        """Return them, made anew where ``state`` or a value of ``tensors`` has changed, or gradients flow."""
        if torch.is_grad_enabled():
            return make()
        same = self.state == state and len(self.made_of) == len(tensors)
        pairs = zip(self.made_of, tensors, strict=False)
        if not same or not all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs):
            self.keys = make()
            self.state, self.made_of = state, tuple(t.clone() for t in tensors)
        return self.keys


class Appended:
    """The tokens that sequence edits append, for one attachment of them to a FLUX network."""

    def __init__(self, backbone: Any, edits: Sequence[SequenceEdit], net: Attachment) -> None:
        self.backbone, self.edits, self.net, self.context = backbone, edits, net, net.context
        self.kept = {edit.name: KeptKeys() for edit in edits}

    def acting(self, cond: Conditioning, *, apart: bool) -> list[SequenceEdit]:
        """Return the edits in force whose tokens read themselves alone, or those whose tokens do not."""
        if self.context.off:
            return []
        return [
            e
            for e in self.edits
            if e.apart == apart and e.name in cond.streams and self.context.acts(e)
        ]

    def beside(self, cond: Conditioning, time: Tensor) -> list[Group]:
        """Return the groups of tokens that go through the blocks with the picture's."""
        edits = self.acting(cond, apart=False)
        return [group for edit in edits for group in self.groups(edit, cond, time)]

    def groups(self, edit: SequenceEdit, cond: Conditioning, time: Tensor) -> list[Group]:
        """Return a group for each picture that an edit gives, ``time`` [b] being that of the drawn one."""
        stream = cond.streams[edit.name]
        made = []
        for number, latents in enumerate(stream.unbind(1), start=1):
            height, width = (side // PATCH for side in latents.shape[-2:])
            down, right = (number * s * n for s, n in zip(edit.shift, (height, width), strict=True))
            places = grid_ids(height, width, latents.device, (number * edit.index, down, right))
            level = time if edit.level is None else torch.full_like(time, edit.level * TIMES)
            tokens = packed(latents.to(self.backbone.dtype))
            made.append(Group(edit.name, tokens, places, self.backbone.embedded(level, cond)))
        return made

    @contextmanager
    def known(self, cond: Conditioning, time: Tensor) -> Iterator[None]:
        """Let attention read the tokens that read themselves alone, for the duration."""
        edits = self.acting(cond, apart=True)
        before = self.context.sequence
        if edits:
            every = [self.kept_keys(edit, cond, time) for edit in edits]
            self.context.sequence = Spans(known=side_by_side(every))
        try:
            yield
        finally:
            self.context.sequence = before

    def kept_keys(self, edit: SequenceEdit, cond: Conditioning, time: Tensor) -> Keys:
        """Return keys and values of an edit's tokens, kept from the step before where nothing changed."""
        transformer = self.backbone.denoiser

        def make() -> Keys:
            groups = self.groups(edit, cond, time)
            return side_by_side([keys_alone(transformer, self.context, g) for g in groups])

        tensors = [cond.streams[edit.name], cond.pooled, *cond.extra.values()]
        if cond.subject is not None:
            tensors.append(cond.subject)
        if edit.level is None:
            tensors.append(time)
        state = within(self.context, edit.name, self._state)
        return self.kept[edit.name].get(state, [t for t in tensors if t is not None], make)

    def _state(self) -> tuple[Any, ...]:
        """Return which edits act, and how often each of their parameters has changed."""
        edits = self.net.fusion.edits
        return tuple((self.context.acts(e), *(p._version for p in e.parameters())) for e in edits)


def side_by_side(keys: Sequence[Keys]) -> Keys:
    """Return the keys and values of several groups of tokens as those of one."""
    first, *others = keys
    if not others:
        return first
    return {
        name: (
            torch.cat([each[name][0] for each in keys], dim=1),
            torch.cat([each[name][1] for each in keys], dim=1),
        )
        for name in first
    }
