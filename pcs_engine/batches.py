"""The rows of one fit step: examples drawn from the pools, or pictures of a renderable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment
from pcs_core.data import ALL, LOSS, RENDERED, Batch, Phase
from pcs_core.errors import RecipeError
from pcs_engine.captions import CaptionTable
from pcs_engine.pools import Pool

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Drawn:
    """Rows of one step: the batch, each row's caption in the table, noise and times (on the CPU).

    ``images`` [b 3 h w] only where they must be encoded in this step.
    """

    batch: Batch
    texts: list[int]
    noise: Tensor
    times: Tensor
    images: Tensor | None = None

    def chosen(self, rows: Sequence[int]) -> Drawn:
        """Return these rows of it alone."""
        batch, at = self.batch, torch.tensor(rows)
        every = [f.name for f in fields(batch)]
        # tensors have a row each, and so have tuples; the number of subjects stays
        taken = {name: _of_rows(getattr(batch, name), at) for name in every}
        return Drawn(
            replace(batch, **taken),
            [self.texts[row] for row in rows],
            _of_rows(self.noise, at),
            _of_rows(self.times, at),
            None if self.images is None else _of_rows(self.images, at),
        )


def _of_rows(value: Any, at: Tensor) -> Any:
    """Return rows ``at`` of a tensor, of a tuple, or of each value of a mapping; else ``value``."""
    if isinstance(value, torch.Tensor):
        return value[at.to(value.device)]
    if isinstance(value, tuple):
        return tuple(value[row] for row in at.tolist()) if value else value
    if isinstance(value, Mapping):
        return {key: _of_rows(one, at) for key, one in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class _Row:
    latents: Tensor
    noise: Tensor
    time: Tensor
    weight: Tensor
    subject: int
    role: str
    text: int
    index: int
    mask: Tensor | None
    image: Tensor | None
    extra: Mapping[str, Tensor]
    regions: Mapping[str, Tensor]


def draw_batch(
    pools: Sequence[Pool],
    table: CaptionTable,
    composition: Mapping[str, int],
    rngs: Sequence[Generator],
    process: Any,
    live: Sequence[int],
    dropout: float = 0.0,
) -> Drawn:
    """Draw the rows of one step: subject by subject of ``live``, each from its own generator.

    Of the rows the share ``dropout`` has an empty caption.
    """
    drawn: list[_Row] = []
    for subject in live:
        pool, rng = pools[subject], rngs[subject]
        for role, count in composition.items():
            if not count:
                continue
            rows = pool.roles[role]
            repeats = [pool.repeats[row] for row in rows] if pool.repeats else []
            for choice in chosen_rows(len(rows), count, rng, repeats):
                row = _draw_row(pool, rows[choice], subject, role, rng, process)
                if dropout and float(torch.rand(1, generator=rng)) < dropout:
                    row = replace(row, text=table.add(subject, ""))
                drawn.append(row)
    latents = [row.latents for row in drawn]
    if len({tuple(t.shape) for t in latents}) > 1:
        raise RecipeError(
            f"the roles of one batch ({', '.join(k for k, n in composition.items() if n)}) give clips "
            "of different lengths: give each a phase of its own"
        )
    stacked = torch.stack(latents)
    given = {}
    if any(row.mask is not None for row in drawn):  # a subject without masks counts in full
        full = stacked.new_ones(1, *stacked.shape[-2:])  # one mask for all frames of a clip
        given = {LOSS: torch.stack([full if row.mask is None else row.mask for row in drawn])}
    texts = [row.text for row in drawn]
    # what only some subjects' examples carry is nobody's
    carried = [k for k in drawn[0].extra if all(k in row.extra for row in drawn)]
    batch = Batch(
        latents=stacked,
        subject=torch.tensor([row.subject for row in drawn], device=stacked.device),
        weight=torch.stack([row.weight for row in drawn]),
        roles=tuple(row.role for row in drawn),
        captions=tuple(table.captions[t][1] for t in texts),
        index=tuple(row.index for row in drawn),
        masks=given,
        subjects=len(pools),
        extra={k: torch.stack([row.extra[k] for row in drawn]) for k in carried},
        regions=stack_regions([row.regions for row in drawn], stacked),
    )
    images = [row.image for row in drawn if row.image is not None]
    shown = torch.stack(images) if images else None
    noises, times = torch.stack([r.noise for r in drawn]), torch.cat([r.time for r in drawn])
    return Drawn(batch, texts, noises, times, shown)


def _draw_row(pool: Pool, row: int, subject: int, role: str, rng: Generator, process: Any) -> _Row:
    """Draw a caption, the latents, noise and a time for example ``row`` of a pool, in this order."""
    options = pool.texts[row]
    pick = int(torch.randint(len(options), (1,), generator=rng)) if len(options) > 1 else 0
    mean, std = pool.mean[row], pool.std[row]
    sampled = torch.randn(mean.shape, generator=rng).to(mean)
    return _Row(
        latents=mean + std * sampled,
        noise=torch.randn(mean.shape, generator=rng),
        time=process.draw_times(1, rng),
        weight=pool.weight[row],
        subject=subject,
        role=role,
        text=options[pick],
        index=pool.index[row],
        mask=None if pool.mask is None else pool.mask[row],
        image=None if pool.images is None else pool.images[row],
        extra={key: values[row] for key, values in pool.extra.items()},
        regions={key: values[row] for key, values in pool.regions.items()},
    )


def chosen_rows(
    available: int, count: int, rng: Generator, repeats: Sequence[int] = ()
) -> list[int]:
    """Return the places of ``count`` of so many examples, drawn with replacement; of all, each once.

    With ``repeats`` each is drawn so many times as often as one of 1.
    """
    if count == ALL:
        return list(range(available))
    if len(set(repeats)) > 1:
        shares = torch.tensor(repeats, dtype=torch.float64)
        return torch.multinomial(shares, count, replacement=True, generator=rng).tolist()
    return torch.randint(available, (count,), generator=rng).tolist()


def stack_regions(rows: Sequence[Mapping[str, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """Return the regions [b 1 h w] of rows, zeros where a row has none of that name.

    ``like`` are the rows' latents [b c h w].
    """
    empty = torch.zeros(1, *like.shape[-2:], device=like.device)
    return {
        key: torch.stack([row.get(key, empty).to(like.device) for row in rows])
        for key in dict.fromkeys(key for row in rows for key in row)
    }


def render_batch(
    net: Attachment,
    table: CaptionTable,
    phase: Phase,
    rngs: Sequence[Generator],
    progress: float,
    *,
    mine: bool = True,
) -> Drawn:
    """Render the rows of one step from the fusion's renderable, with gradients to it.

    Rows that are not ``mine`` are another process's: only their numbers are drawn, as latents are zeros.

    Raises
    ------
    RecipeError
        No technique gives a renderable, the batch mixes it with examples, or several subjects share it.
    """
    renderable, count = net.fusion.source, phase.batch[RENDERED]
    if renderable is None or len(phase.batch) > 1 or len(rngs) > 1:
        what = "no technique of the recipe gives one" if renderable is None else "it must be alone"
        raise RecipeError(f"phase {phase.name!r} draws rendered rows: {what}")
    backbone, rng = net.backbone, rngs[0]
    with nullcontext() if mine else torch.no_grad():
        rendered = renderable.render(count, rng, progress)
    if mine:
        latents = backbone.moments(rendered.images.to(backbone.device))[0]
    else:
        latents = torch.zeros(count, *backbone.latent_shape, device=backbone.device)
    batch = Batch(
        latents=latents,
        subject=torch.zeros(count, dtype=torch.long, device=latents.device),
        weight=torch.ones(count, device=latents.device),
        roles=(RENDERED,) * count,
        captions=rendered.captions,
        index=(-1,) * count,
        extra=rendered.extra,
    )
    texts = [table.add(0, caption) for caption in rendered.captions]
    noise = torch.stack([torch.randn(latents.shape[1:], generator=rng) for _ in range(count)])
    return Drawn(batch, texts, noise, backbone.process.draw_times(count, rng))
