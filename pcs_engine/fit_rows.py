"""The rows of a fit's steps: subjects' examples from their pools, or what is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment
from pcs_core.data import REFERENCE, RENDERED, SEED, FitStep, Phase
from pcs_core.errors import RecipeError
from pcs_engine.batches import Drawn, draw_batch, render_batch
from pcs_engine.beside import Beside, DrawnBeside, draw_beside, shown_beside
from pcs_engine.buckets import draw_bucket
from pcs_engine.captions import CaptionTable, text_is_constant
from pcs_engine.clipping import clip_per_subject
from pcs_engine.phase_loop import stacked_names
from pcs_engine.processes import Processes, one_process
from pcs_engine.randomness import step_seeds
from pcs_engine.steps import edits_of, make_step, sample_timesteps

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from pcs_core.data import Batch, Conditioning, Level
    from pcs_engine.buckets import Bucket
    from pcs_engine.pools import Pool
    from pcs_engine.precision import Precision
    from pcs_engine.run import EngineRun
    from pcs_engine.stops import Stops


@dataclass(frozen=True, slots=True)
class Asked:
    """A part of a step before its texts are read: its rows, their level, what streams say of them.

    ``rows`` are what edits know of each; ``others`` stand beside them.
    """

    phase: Phase
    index: int
    drawn: Drawn
    level: Level
    streams: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    others: Sequence[DrawnBeside]
    stops: Stops


@dataclass
class FitSupply:
    """The :class:`~pcs_engine.phase_loop.Supply` of a fit: a generator per subject.

    ``concepts`` are the placeholders of each subject's concepts. Where there are several ``processes``, each
    draws the numbers of all rows of a step, as one process would, and computes its share of the rows.
    """

    run: EngineRun
    net: Attachment
    pools: Sequence[Pool]
    table: CaptionTable
    rngs: Sequence[Generator]
    precision: Precision
    concepts: Sequence[Sequence[str]]
    processes: Processes = field(default_factory=Processes)
    buckets: Sequence[Bucket] = ()
    """Pools of each size, where the pictures of the one subject have several."""

    def prepare(self, phase: Phase, params: Mapping[str, nn.Parameter]) -> None:
        """Encode the captions once where nothing in the text trains."""
        if self.run.recipe.caption_dropout:
            for subject in range(len(self.rngs)):
                self.table.add(subject, "")
        constant = text_is_constant(self.net, list(params))
        self.table.encode(self.net, constant=constant, concepts=self.concepts)

    def share_gradients(self, phase: Phase, params: Iterable[nn.Parameter]) -> None:
        """Bring together what the processes computed of a step."""
        self.processes.share_gradients(phase, params)

    def clip(self, params: Mapping[str, nn.Parameter], limit: float) -> None:
        """Clip each subject by its own norm."""
        stacked = stacked_names(self.net)
        norms = [(p, n in stacked) for n, p in params.items()]
        clip_per_subject(norms, limit, len(self.rngs))

    def step(self, phase: Phase, index: int, part: int, stops: Stops) -> FitStep | None:
        """Draw the rows of the subjects that are live, corrupt them, and read their texts."""
        asked = self.ask(phase, index, part, stops)
        return None if asked is None else self.make(asked, self.read(asked))

    def replay(self, phase: Phase, index: int, part: int, stops: Stops) -> Callable[[], FitStep]:
        """Return what makes the same part again: its rows are drawn once, its texts read each time.

        Raises
        ------
        RecipeError
            Several processes fit, or the rows are pictures that what is searched for makes or changes.
        """
        if self.processes.count > 1 or RENDERED in phase.batch or self.net.encodes_each_step:
            raise RecipeError(
                f"phase {phase.name!r}: the optimizer {phase.optimizer!r} searches without gradients, in one "
                "process and on pictures that stay: name another"
            )
        asked = self.ask(phase, index, part, stops)
        assert asked is not None
        return lambda: self.make(asked, self.read(asked))

    def ask(self, phase: Phase, index: int, part: int, stops: Stops) -> Asked | None:
        """Draw all that is random in a part of a step; its texts are not read yet."""
        net, process, device = self.net, self.net.backbone.process, self.net.backbone.device
        edits, mine = edits_of(phase), self.processes.takes(phase, part)
        seeds = torch.zeros(len(self.rngs), dtype=torch.long)
        seeds[list(stops.live)] = step_seeds([self.rngs[s] for s in stops.live])
        drawn, others = self._draw(phase, index / phase.steps, stops.live, mine)
        if not mine:
            return None
        batch, noise, times = drawn.batch, drawn.noise, drawn.times
        if drawn.images is not None:
            # the seed's mean alone: a draw from the posterior would hide what a pixel edit does
            with self.precision.whole():
                latents = net.latents(drawn.images, drawn.batch.index, edits)
            batch = replace(batch, latents=latents)
        level = process.level(times)
        features = net.read_features(self.run.features.tensors, batch.subject)
        with net.under(edits=edits):
            streams = net.streams(features)
        batch = replace(batch, features=features)
        drawn = replace(drawn, batch=batch, noise=noise, times=times)
        rows = self._rows(batch, seeds.to(device))
        return Asked(phase, index, drawn, level, streams, rows, others, stops)

    def read(self, asked: Asked) -> Conditioning:
        """Return what the texts of a part say."""
        batch, edits = asked.drawn.batch, edits_of(asked.phase)
        fraction = self.net.backbone.process.fraction(asked.level)
        texts = asked.drawn.texts
        return self.table.read(self.net, texts, batch.subject, fraction, asked.streams, edits)

    def make(self, asked: Asked, cond: Conditioning) -> FitStep:
        """Return the step of a part whose texts say ``cond``."""
        net, phase, level, rows = self.net, asked.phase, asked.level, asked.rows
        batch, edits = asked.drawn.batch, edits_of(asked.phase)
        strengths = net.strengths(len(batch.roles))
        cond = cond.with_(extra={**cond.extra, **strengths, **rows, **batch.extra})
        apart = {**rows, REFERENCE: torch.full_like(rows[REFERENCE], -1)}
        alone = replace(batch, extra={**apart, **batch.extra})
        beside = [self._beside(row, alone, level, asked.streams, edits) for row in asked.others]
        return make_step(
            self.run,
            net,
            phase,
            asked.index,
            batch,
            level=level,
            noise=asked.drawn.noise,
            cond=cond,
            stop=asked.stops.ask if self.processes.count == 1 else one_process,
            beside=beside,
            encode=lambda text, model="self": self._conditioning(text, cond, edits, model),
        )

    def _conditioning(
        self, text: str | Sequence[str], cond: Conditioning, edits: str, model: str
    ) -> Conditioning:
        """Return the conditioning of one text for every row of ``cond``, or of a text for each."""
        texts = [text] * cond.rows if isinstance(text, str) else list(text)
        if (further := self.run.models.get(model)) is not None:
            return further.encode(texts, cond)
        return self.table.tell(self.net, texts, cond, edits, model)

    def _rows(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Return what edits know of each row: the seed of its subject's step, and its reference."""
        index = batch.index or (-1,) * len(batch.roles)
        return {SEED: seeds[batch.subject], REFERENCE: torch.tensor(index, device=seeds.device)}

    def _beside(
        self,
        drawn: DrawnBeside,
        batch: Batch,
        level: Level,
        streams: Mapping[str, Tensor],
        edits: str,
    ) -> Beside:
        """Return an example beside each row of ``batch``, as the network is shown it."""
        net, process = self.net, self.net.backbone.process
        noisy, shown_level = shown_beside(drawn, level, process)
        fraction = process.fraction(shown_level)
        cond = self.table.read(net, drawn.texts, batch.subject, fraction, streams, edits)
        strengths = net.strengths(len(batch.roles))
        cond = cond.with_(extra={**cond.extra, **strengths, **batch.extra})
        return Beside(drawn.row.role, noisy, shown_level, cond)

    def _pools(self, live: Sequence[int]) -> Sequence[Pool]:
        """Return what a batch is drawn from: of several sizes one, which is the backbone's from now on."""
        if not self.buckets or not live:
            return self.pools
        bucket = draw_bucket(self.buckets, self.rngs[live[0]])
        backbone: Any = self.net.backbone
        backbone.at(*bucket.size)
        return bucket.pools

    def _draw(
        self, phase: Phase, progress: float, live: Sequence[int], mine: bool
    ) -> tuple[Drawn, list[DrawnBeside]]:
        """Draw all that is random in a part of a step; return this process's rows and those beside them."""
        net, device = self.net, self.net.backbone.device
        if RENDERED in phase.batch:
            with net.under(edits=edits_of(phase)), self.precision.whole():
                drawn = render_batch(net, self.table, phase, self.rngs, progress, mine=mine)
            pools = self.pools
        else:
            process, pools = net.backbone.process, self._pools(live)
            drawn = draw_batch(
                pools,
                self.table,
                phase.batch,
                self.rngs,
                process,
                live,
                self.run.recipe.caption_dropout,
            )
        rngs = [self.rngs[s] for s in live]
        noise, times = drawn.noise.to(device), drawn.times.to(device)
        noise, times = sample_timesteps(net, phase, rngs, noise, times, progress)
        drawn = replace(drawn, noise=noise, times=times)
        owners = drawn.batch.subject.tolist() if net.fusion.fit_rows else []
        others = [draw_beside(row, pools, owners, self.rngs) for row in net.fusion.fit_rows]
        places = self.processes.rows(phase, len(live))
        if places is None:
            return drawn, others
        return drawn.chosen(places), [other.chosen(places) for other in others]
