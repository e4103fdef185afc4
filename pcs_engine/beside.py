"""Rows beside a fit step's own: further examples in the same forward, which edits read and no loss sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import Conditioning, Evaluation, Level, concatenate
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data import FitRow
    from pcs_engine.pools import Pool


@dataclass(frozen=True, slots=True)
class DrawnBeside:
    """For each row of a batch one more example: ``latents`` and ``noise`` [b c h w], its text in the table."""

    row: FitRow
    latents: Tensor
    noise: Tensor
    texts: list[int]

    def chosen(self, rows: Sequence[int]) -> DrawnBeside:
        """Return the examples beside these rows of the batch alone."""
        at = torch.tensor(rows, device=self.latents.device)
        texts = [self.texts[row] for row in rows]
        return DrawnBeside(self.row, self.latents[at], self.noise[at], texts)


@dataclass(frozen=True, slots=True)
class Beside:
    """The same, as the network is shown it: latents [b c h w], level and conditioning of b rows."""

    role: str
    noisy: Tensor
    level: Level
    cond: Conditioning


def draw_beside(
    row: FitRow, pools: Sequence[Pool], subjects: Sequence[int], rngs: Sequence[Generator]
) -> DrawnBeside:
    """Draw an example of ``row`` for each entry of ``subjects``, from the generator of that subject.

    Raises
    ------
    RecipeError
        A subject has no example of its role.
    """
    latents, noises, texts = [], [], []
    for subject in subjects:
        pool, rng = pools[subject], rngs[subject]
        choices = pool.roles.get(row.example, [])
        if not choices:
            raise RecipeError(
                f"the row {row.role!r} stands for examples of role {row.example!r}, and no technique "
                f"of the recipe gives any (roles found: {', '.join(pool.roles)})"
            )
        chosen = choices[int(torch.randint(len(choices), (1,), generator=rng))]
        mean, std = pool.mean[chosen], pool.std[chosen]
        latents.append(mean + std * torch.randn(mean.shape, generator=rng).to(mean))
        noises.append(torch.randn(mean.shape, generator=rng).to(mean))
        texts.append(pool.texts[chosen][0])
    return DrawnBeside(row, torch.stack(latents), torch.stack(noises), texts)


def shown_beside(drawn: DrawnBeside, level: Level, process: Any) -> tuple[Tensor, Level]:
    """Return the latents as the network is shown them, and their level."""
    if drawn.row.level == "same":
        return process.corrupt(drawn.latents, drawn.noise, level), level
    nothing = torch.zeros(len(drawn.latents), device=drawn.latents.device)
    return drawn.latents, process.level(process.at(nothing).to(drawn.latents.device))


def evaluate_beside(
    evaluate: Any,
    noisy: Tensor,
    level: Level,
    cond: Conditioning,
    rows: Sequence[Beside],
    **options: Any,
) -> Evaluation:
    """Run the network once on a batch of b rows and those beside it; return the answer to the batch.

    Edits find a row in ``cond.extra["row.<role>"]``, for each row of the forward an index [b (1 + n)]: a
    row beside the batch belongs to the batch row at its place, and finds itself.
    """
    count, beside = len(noisy), len(rows)
    keys = set(cond.extra).intersection(*(row.cond.extra for row in rows))
    parts = [
        part.with_(extra={k: part.extra[k] for k in keys})
        for part in (cond, *(r.cond for r in rows))
    ]
    place = torch.arange(count, device=noisy.device)
    index = {
        f"row.{row.role}": (place + (i + 1) * count).repeat(1 + beside)
        for i, row in enumerate(rows)
    }
    together = concatenate(tuple(parts))
    answer = evaluate(
        torch.cat([noisy, *(row.noisy.to(noisy) for row in rows)]),
        Level(*(torch.cat(values) for values in zip(level, *(r.level for r in rows), strict=True))),
        together.with_(extra={**together.extra, **index}),
        **options,
    )
    tape: Mapping[str, Tensor] = {
        site: maps[: len(maps) // (1 + beside)] for site, maps in answer.tape.items()
    }
    return Evaluation(x0=answer.x0[:count], output=answer.output[:count], tape=tape)
