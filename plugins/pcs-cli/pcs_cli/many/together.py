"""Rows of several fits read their texts and pass the network together, and each gets its own back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from pcs_core.backbone import TokenisedPrompts
from pcs_core.data import Evaluation, Level, concatenate
from pcs_engine.steps import edits_of

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.many.lane import Lane
    from pcs_core.backbone import Attachment
    from pcs_core.data import Conditioning, FitStep
    from pcs_engine.fit_rows import Asked


def read_texts(whole: Attachment, asking: Sequence[tuple[Lane, Asked]]) -> list[Conditioning]:
    """Return what the texts of each part say: those that train in one call of the encoder."""
    said: dict[int, Conditioning] = {}
    groups: dict[Any, list[int]] = {}
    for i, (lane, asked) in enumerate(asking):
        table = lane.supply.table
        if table.cond is not None or asked.streams or table.tokens is None:
            said[i] = lane.supply.read(asked)
        else:
            tokens = table.tokens
            key = (edits_of(asked.phase), tokens.ids.shape[1], tokens.windows, tuple(tokens.spans))
            groups.setdefault(key, []).append(i)
    for members in groups.values():
        if len(members) == 1:
            lane, asked = asking[members[0]]
            said[members[0]] = lane.supply.read(asked)
        else:
            parts = [asking[i] for i in members]
            said |= dict(zip(members, _encoded(whole, parts), strict=True))
    return [said[i] for i in range(len(asking))]


def _encoded(whole: Attachment, parts: Sequence[tuple[Lane, Asked]]) -> list[Conditioning]:
    prompts, subjects, times, strengths = [], [], [], []
    for lane, asked in parts:
        lane.net.ready()
        batch = asked.drawn.batch
        assert lane.supply.table.tokens is not None
        prompts.append(lane.supply.table.tokens.rows(asked.drawn.texts))
        subjects.append(lane.net.indices(batch.subject, len(batch.roles)))
        times.append(whole.backbone.process.fraction(asked.level))
        strengths.append(lane.net.strengths(len(batch.roles)))
    extra = {name: torch.cat([one[name] for one in strengths]) for name in strengths[0]}
    edits = edits_of(parts[0][1].phase)
    cond = whole.encode_text(
        joined(prompts), torch.cat(subjects), time=torch.cat(times), extra=extra, edits=edits
    )
    sizes = [len(one) for one in subjects]
    return [
        one.with_(subject=asked.drawn.batch.subject, time=time, streams={})
        for one, (_, asked), time in zip(rows_of(cond, sizes), parts, times, strict=True)
    ]


def joined(prompts: Sequence[TokenisedPrompts]) -> TokenisedPrompts:
    """Return the rows of all, one behind the other; spans are filled up to one width."""
    spans = {}
    for name in prompts[0].spans:
        wide = max(one.spans[name].shape[1] for one in prompts)
        spans[name] = torch.cat(
            [F.pad(p.spans[name], (0, wide - p.spans[name].shape[1]), value=-1) for p in prompts]
        )
    weights = None
    if any(one.weights is not None for one in prompts):
        weights = torch.cat(
            [torch.ones(p.ids.shape) if p.weights is None else p.weights for p in prompts]
        )
    ids = torch.cat([one.ids for one in prompts])
    return TokenisedPrompts(ids, spans, prompts[0].windows, weights)


def rows_of(value: Any, sizes: Sequence[int]) -> list[Any]:
    """Return a tree of tensors in parts of so many rows each."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        pytree.tree_map(lambda t, a=end - size, b=end: t[a:b], value)
        for size, end in zip(sizes, ends, strict=True)
    ]


def evaluate(whole: Attachment, steps: Sequence[tuple[Lane, FitStep]]) -> list[Evaluation | None]:
    """Run the network on the rows of all steps; None for one that asks it in its own way."""
    answers: list[Evaluation | None] = [None] * len(steps)
    groups: dict[Any, list[int]] = {}
    for i, (lane, step) in enumerate(steps):
        if not lane.fusion.fit_rows:
            groups.setdefault(_shape(lane, step), []).append(i)
    for members in groups.values():
        if len(members) > 1:
            given = _evaluated(whole, [steps[i] for i in members])
            for i, answer in zip(members, given, strict=True):
                answers[i] = answer
    return answers


def _shape(lane: Lane, step: FitStep) -> tuple[Any, ...]:
    """Return what must be alike for rows to share a batch."""
    bare = step.cond.with_(spans={})
    leaves, names = pytree.tree_flatten(bare)
    shapes = tuple((tuple(t.shape[1:]), t.dtype) for t in leaves)
    spans = tuple(step.cond.spans)
    rows = tuple(step.noisy.shape[1:])
    return edits_of(lane.phase), lane.fusion.records, rows, str(names), shapes, spans


def _evaluated(whole: Attachment, steps: Sequence[tuple[Lane, FitStep]]) -> list[Evaluation]:
    conds, texts = [], []
    for lane, step in steps:
        lane.net.ready()
        conds.append(step.cond.with_(subject=lane.net.indices(step.cond.subject, step.cond.rows)))
        text, parts = lane.net.known_texts.shown
        texts.append(parts if text is step.cond.text else ())
    cond = concatenate(tuple(conds))
    if all(texts):
        whole.known_texts.show(cond.text, *(part for parts in texts for part in parts))
    latents = torch.cat([step.noisy for _, step in steps])
    level = Level(*(torch.cat(values) for values in zip(*(s.level for _, s in steps), strict=True)))
    lane = steps[0][0]
    record = lane.fusion.records
    answer = whole.evaluate(latents, level, cond, edits=edits_of(lane.phase), record=record)
    sizes = [step.cond.rows for _, step in steps]
    x0, output = rows_of(answer.x0, sizes), rows_of(answer.output, sizes)
    tapes = _tapes(answer.tape, sizes)
    return [Evaluation(*parts) for parts in zip(x0, output, tapes, strict=True)]


def _tapes(tape: Any, sizes: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return each fit's maps: where frames are folded into the batch, a row of it has as many."""
    rows = sum(sizes)
    parts: list[dict[str, Tensor]] = [{} for _ in sizes]
    for site, maps in tape.items():
        folded = [size * (len(maps) // rows) for size in sizes]
        for part, mine in zip(parts, rows_of(maps, folded), strict=True):
            part[site] = mine
    return parts
