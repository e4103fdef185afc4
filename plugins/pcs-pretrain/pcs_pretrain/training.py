"""Pre-training: one set of weights for all subjects, from a data set of records.

The same step as a fit, but every row is another record: its references stand where a fit has the
subject's, and what `extract` says about them is computed once per record (:mod:`pcs_pretrain.reading`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import reduce

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import (
    Attachment,
    export_tensors,
    import_tensors,
    suspended,
    tokenise,
)
from pcs_core.data import (
    SEED,
    Batch,
    Conditioning,
    Features,
    FitStep,
    Personalization,
    Record,
    Records,
    StreamEdit,
    TokenEdit,
    mask_at,
)
from pcs_core.errors import ArtifactError, InputError, RecipeError
from pcs_core.merge import merge_features, merge_fusions
from pcs_engine.adapters import digest
from pcs_engine.batches import stack_regions
from pcs_engine.checkpoints import Checkpoints
from pcs_engine.freeing import free_circles
from pcs_engine.phase_loop import Training, train_phase
from pcs_engine.precision import Precision
from pcs_engine.prepare import fit_image, fit_points, regions_of, subject_masks
from pcs_engine.processes import one_process
from pcs_engine.progress import Progress, Reporter
from pcs_engine.randomness import generator, step_seeds
from pcs_engine.run import EngineRun
from pcs_engine.steps import edits_of, make_step, sample_timesteps
from pcs_pretrain.reading import EncodedRecord, Reading
from pcs_pretrain.records import record_concepts, record_picture, record_subject

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Fusion, Phase, Recipe
    from pcs_engine.stops import Stops


@checks_arguments
def pretrain(
    recipe: Recipe,
    records: Records,
    backbone: Backbone,
    *,
    seed: int = 0,
    work: Path | None = None,
    resume: bool = False,
    precision: str = "fp32",
    checkpointing: bool = False,
    init: Personalization | None = None,
    watch: Sequence[Callable[[Progress], None]] = (),
) -> Personalization:
    """Run the ``[[pretrain]]`` phases of a recipe; return its weights as an artifact of no subject.

    ``precision`` and ``checkpointing`` as in :func:`~pcs_engine.fit`. Under a launcher (``torchrun``) the
    processes share out the batch and average gradients. ``work`` keeps checkpoints; ``resume`` goes on there,
    bit for bit on a CPU. ``init`` is an earlier pre-training of this system to start from, on this backbone
    or on an earlier state of it.

    Raises
    ------
    InputError
        No record.
    RecipeError
        The recipe has no ``[[pretrain]]``, or a phase trains nothing.
    ArtifactError
        ``init`` is of another system, or its tensors have other shapes than the recipe builds.
    CapabilityError
        The recipe cannot run on this family of backbones; says why.
    """
    from pcs_core import load_recipe

    recipe = load_recipe(recipe, backbone=backbone)
    if not any(phase.pretrain for phase in recipe.phases):
        raise RecipeError(f"recipe {recipe.id!r} has no [[pretrain]] phase: there is nothing to do")
    if not len(records):
        raise InputError("the data set holds no record")
    if recipe.caption_dropout:
        raise RecipeError(
            "fit.caption_dropout is for fits: in a pre-training data.condition_dropout.text drops captions"
        )
    if recipe.models:
        raise RecipeError(
            f"recipe {recipe.id!r} asks the model {recipe.models[0].name!r}, and a pre-training asks none: "
            "leave the technique that asks it out of [[pretrain]]'s recipe"
        )
    if init is not None and init.recipe.id != recipe.id:
        raise ArtifactError(
            f"the weights to start from are of system {init.recipe.id!r}, not of {recipe.id!r}"
        )
    with suspended(backbone):
        artifact = _Pretraining(
            recipe, records, backbone, seed, work, resume, precision, checkpointing, watch, init
        ).run()
    free_circles(sum(t.numel() * t.element_size() for t in artifact.tensors.values()))
    return artifact


@dataclass
class _Pretraining:
    """One pre-training, and the :class:`~pcs_engine.phase_loop.Supply` of its phases."""

    recipe: Recipe
    records: Records
    backbone: Backbone
    seed: int
    work: Path | None
    resume: bool
    precision_name: str
    checkpointing: bool
    watch: Sequence[Callable[[Progress], None]]
    init: Personalization | None = None
    rows: int = 0
    """Rows of earlier phases."""

    def run(self) -> Personalization:
        # which process this is, and no more: an Accelerator would fix a precision for the whole Python process
        self.processes = PartialState(cpu=self.backbone.device.type == "cpu")
        self.precision = Precision(self.precision_name, self.backbone)
        first = self.records[0]
        concepts = record_concepts(first)
        self.run_ = EngineRun(
            self.recipe,
            self.backbone,
            seed=self.seed,
            names=("pretrain",),
            concepts=[concepts],
            work=self.work,
        )
        tensors = self._extract(first)
        self.run_.features = Features(
            tensors={k: v.unsqueeze(0) for k, v in tensors.items()}, concepts=(concepts,)
        )
        fusion = self._fused()
        self.run_.plug(fusion, self._fused)
        self.rng = generator(self.seed, "pretrain", str(self.processes.process_index))
        self._open_reading()
        phases = [p for p in self.recipe.phases if p.pretrain]
        reporter = Reporter(self.watch, sum(p.steps for p in phases))
        with Attachment(self.backbone, fusion, fitting=True) as net, self.precision.lower():
            self.net, self.run_.full_precision = net, self.precision.lifted
            if self.checkpointing:
                net.use_checkpointing()
            training = Training(
                self.run_, net, self, self._checkpoints(fusion), self.precision, reporter
            )
            for number, phase in enumerate(phases):
                if phase.steps:
                    train_phase(training, number, phase)
                self.rows += phase.steps * phase.accumulate * self._share(phase)
            with self.precision.lifted():
                tensors = export_tensors(fusion, 0)
        about: dict[str, Any] = {"records": len(self.records), "steps": reporter.total}
        if self.precision_name != "fp32":
            about["precision"] = self.precision_name
        if self.checkpointing:
            about["gradient_checkpointing"] = True
        return Personalization(
            recipe=self.recipe,
            backbone=self.backbone.card,
            concepts=(),
            tensors=tensors,
            seed=self.seed,
            extra={"pretrained": about},
        )

    def _fused(self) -> Fusion:
        fusion = merge_fusions(self.run_.call("fuse", features=self.run_.features))
        if self.init is not None:
            import_tensors(fusion, dict(self.init.tensors))
        return fusion

    @property
    def _identity(self) -> dict[str, object]:
        return {
            "recipe": self.recipe.hash,
            "backbone": self.backbone.card.hash,
            "seed": self.seed,
        }

    def _open_reading(self) -> None:
        self.reading = Reading(
            len(self.records),
            self._read,
            seed=self.seed,
            rank=self.processes.process_index,
            processes=self.processes.num_processes,
            work=self.work,
            identity={**self._identity, "records": len(self.records)},
        )

    def _checkpoints(self, fusion: Fusion) -> Checkpoints:
        more = {
            "init": self.init and digest(self.init.tensors),
            "precision": self.precision_name,
        }
        return Checkpoints(
            self.work,
            f"pretrain-{self.processes.process_index}",
            fusion,
            [self.rng],
            identity={**self._identity, **more},
            resume=self.resume,
        )

    def prepare(self, phase: Phase, params: Mapping[str, torch.nn.Parameter]) -> None:
        """Nothing: every row brings a text of its own."""

    def share_gradients(self, phase: Phase, params: Iterable[torch.nn.Parameter]) -> None:
        """Average the gradients over the processes."""
        if self.processes.num_processes > 1:
            for param in params:
                if param.grad is not None:
                    param.grad = reduce(param.grad, "mean")

    def clip(self, params: Mapping[str, torch.nn.Parameter], limit: float) -> None:
        """Clip by the norm over all parameters: they are everybody's."""
        torch.nn.utils.clip_grad_norm_(params.values(), limit)

    @torch.no_grad()
    def _read(self, indices: Sequence[int]) -> list[EncodedRecord]:
        """Return records as a step needs them: drawn or read, encoded, asked about."""
        records = [self.records[i] for i in indices]
        images = torch.stack([fit_image(r.image, self.run_.image_size) for r in records])
        # a fit computes the features of its references in full precision too
        with self.precision.whole():
            encoded = self.backbone.moments(images.to(self.backbone.device))[0].half().cpu()
            return [
                EncodedRecord(
                    latents=latents,
                    features={k: v.half().cpu() for k, v in self._extract(record).items()},
                    caption=record.caption,
                    phrases=record.phrases,
                    extra=self._extra(record),
                    regions=self._regions(record, (latents.shape[-2], latents.shape[-1])),
                )
                for record, latents in zip(records, encoded, strict=True)
            ]

    def _extra(self, record: Record) -> dict[str, Tensor]:
        """Return what a record carries, its points in parts of the picture that the network is shown."""
        extra = dict(record.extra)
        if "points" in extra:
            height, width = record.image.shape[-2:]
            extra["points"] = fit_points(extra["points"], (height, width), self.run_.image_size)
        return extra

    @torch.no_grad()
    def _extract(self, record: Record) -> Mapping[str, Tensor]:
        subject = record_subject(record)
        masks = subject_masks(self.run_, subject)
        answers = self.run_.call("extract", subject=subject, masks=masks, moment="start")
        return merge_features(answers).tensors

    def _regions(self, record: Record, size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the regions [1 h w] of a record's picture at ``size``: its own masks win."""
        subject = record_picture(record)
        regions = regions_of(subject, 0, subject_masks(self.run_, subject))
        return {name: mask_at(mask, size) for name, mask in regions.items()}

    def _share(self, phase: Phase) -> int:
        """Return how many rows of a batch are this process's."""
        return max(1, sum(phase.batch.values()) // self.processes.num_processes)

    def step(self, phase: Phase, index: int, part: int, stops: Stops) -> FitStep:
        """Read the rows of this part, corrupt them, and encode their texts."""
        net, process, device = self.net, self.backbone.process, self.backbone.device
        share = self._share(phase)
        seed = {SEED: step_seeds([self.rng]).expand(share).to(device)}
        at = self.rows + (index * phase.accumulate + part) * share
        chosen, rows = zip(*self.reading.rows(at, share), strict=True)
        latents = torch.stack([row.latents.float() for row in rows]).to(device)
        noise = torch.stack([torch.randn(latents.shape[1:], generator=self.rng) for _ in rows])
        times = process.draw_times(share, self.rng)
        noise, times = sample_timesteps(net, phase, [self.rng], noise, times, index / phase.steps)
        noise, times = noise.to(device), times.to(device)
        level = process.level(times)
        no_text, no_stream = drop_rows(net.fusion.dropout, share, self.rng)
        plain = drop_subjects(net.fusion.dropout, rows, self.rng)
        features = {
            name: torch.stack([row.features[name].float() for row in rows]).to(device)
            for name in {n for edit in net.fusion.of(StreamEdit) for n in edit.reads}
        }
        kept = (~no_stream).to(device).float()
        features = {
            k: without(v * kept.view(-1, *[1] * (v.dim() - 1)), plain) for k, v in features.items()
        }
        with net.under(edits=edits_of(phase)):
            streams = net.streams(features)
        captions = ["" if gone else r.caption for r, gone in zip(rows, no_text, strict=True)]
        subject = torch.zeros(share, dtype=torch.long, device=device)
        time = process.fraction(level)
        cond = self._text(phase, captions, rows, subject, time, streams, plain)
        extra = stack_extra([row.extra for row in rows], device)
        regions = stack_regions([row.regions for row in rows], latents)
        cond = cond.with_(extra={**cond.extra, **net.strengths(share), **seed, **extra})
        batch = Batch(
            latents=latents,
            subject=subject,
            weight=torch.ones(share, device=device),
            roles=("subject",) * share,
            captions=tuple(captions),
            index=chosen,
            features=features,
            extra=extra,
            regions=regions,
        )
        return make_step(
            self.run_,
            net,
            phase,
            index,
            batch,
            level=level,
            noise=noise,
            cond=cond,
            stop=stops.ask if self.processes.num_processes == 1 else one_process,
        )

    def replay(self, phase: Phase, index: int, part: int, stops: Stops) -> Callable[[], FitStep]:
        """Refuse: a pre-training follows gradients.

        Raises
        ------
        RecipeError
            Always.
        """
        raise RecipeError(
            f"phase {phase.name!r}: the optimizer {phase.optimizer!r} searches without gradients, and a "
            "pre-training follows them: name another"
        )

    def _text(
        self,
        phase: Phase,
        captions: Sequence[str],
        kept: Sequence[EncodedRecord],
        subject: Tensor,
        time: Tensor,
        streams: Mapping[str, Tensor],
        plain: Tensor,
    ) -> Conditioning:
        """Encode captions; a concept stands where the record says its phrase does, unless it is ``plain``."""
        windows = tokenise(captions, self.backbone.tokenizer).windows
        rows = [
            tokenise([text], self.backbone.tokenizer, phrases=row.phrases, windows=windows)
            for text, row in zip(captions, kept, strict=True)
        ]
        slots = max(len(row.phrases) for row in kept)
        width = max([1, *(s.shape[1] for row in rows for s in row.spans.values())])
        spans = {}
        for k in range(slots):
            phrase_spans = [row.spans.get(f"phrase.{k}", torch.full((1, 1), -1)) for row in rows]
            padded = [F.pad(s, (0, width - s.shape[1]), value=-1) for s in phrase_spans]
            spans[f"concept.{k}"] = torch.cat(padded).masked_fill(plain[:, k, None], -1)
        spans |= {
            str(i): spans["concept.0"] for i in range(len(self.net.fusion.of(TokenEdit))) if spans
        }
        prompts = type(rows[0])(torch.cat([row.ids for row in rows]), spans, windows)
        return self.net.encode_text(
            prompts,
            subject,
            time=time,
            streams=streams,
            extra=self.net.strengths(len(rows)),
            edits=edits_of(phase),
        )


def stack_extra(rows: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Stack extras [b ...] that all rows have."""
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if all(k in r for r in rows)]
    return {key: torch.stack([row[key] for row in rows]).to(device) for key in keys}


def without(feature: Tensor, plain: Tensor) -> Tensor:
    """Return ``feature`` [b slots ...] with zeros where a slot of a row is ``plain`` [b k]."""
    if not bool(plain.any()):
        return feature
    count = min(feature.shape[1], plain.shape[1])
    gone = F.pad(plain[:, :count], (0, feature.shape[1] - count)).to(feature.device)
    return feature.masked_fill(gone.view(*gone.shape, *[1] * (feature.dim() - 2)), 0.0)


def drop_subjects(
    dropout: Mapping[str, float], rows: Sequence[EncodedRecord], rng: Generator
) -> Tensor:
    """Return which subjects of each row are plain text, [b k] bool on the CPU; nothing is drawn at 0."""
    most, share = max(1, *(len(row.phrases) for row in rows)), dropout.get("subjects", 0.0)
    if not share:
        return torch.zeros(len(rows), most, dtype=torch.bool)
    return torch.rand(len(rows), most, generator=rng) < share


def drop_rows(dropout: Mapping[str, float], count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return which rows lose their text and which their streams, [count] bool each, on the CPU."""
    draw = torch.rand(count, generator=rng)
    text, streams, both = (dropout.get(k, 0.0) for k in ("text", "streams", "both"))
    alone = draw < text
    image = (draw >= text) & (draw < text + streams)
    everything = (draw >= text + streams) & (draw < text + streams + both)
    return alone | everything, image | everything
