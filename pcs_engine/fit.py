"""A fit: what comes before the phases and after them, and the artifacts it ends in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import Attachment, export_tensors, import_tensors, suspended
from pcs_core.data import RENDERED, Fusion, Masks, Personalization, Phase, Recipe, Subject
from pcs_core.errors import CapabilityError, InputError, PluginError, RecipeError
from pcs_core.merge import merge_fusions
from pcs_engine.adapters import adapter_of, digest, find_adapter, needs_adapter
from pcs_engine.buckets import (
    Bucket,
    BucketExamples,
    check_buckets,
    check_one_size,
    picture_sizes,
    share_of,
)
from pcs_engine.captions import CaptionTable
from pcs_engine.checkpoints import Checkpoints
from pcs_engine.continuing import (
    adapter_to_keep,
    continued_subject,
    origin,
    steps_behind,
    steps_taken,
)
from pcs_engine.cropping import crop_subject
from pcs_engine.drawn_size import sized
from pcs_engine.fit_rows import FitSupply
from pcs_engine.freeing import free_circles, size_of
from pcs_engine.further import OpenedModel, check_models, kept, open_models
from pcs_engine.given import check_count, check_switch, given_subjects
from pcs_engine.live import Drawing, live_drawing
from pcs_engine.memory_bounds import check_rows
from pcs_engine.opening import check_sampler, check_subjects, needs_pictures, open_backbone
from pcs_engine.phase_loop import Training, train_phase
from pcs_engine.pools import Latents, Pool, encode_pools
from pcs_engine.precision import Precision
from pcs_engine.prepare import Answers, ask, ask_at_border, unite
from pcs_engine.processes import check_shared, join
from pcs_engine.progress import Progress, Reporter
from pcs_engine.randomness import generator
from pcs_engine.run import EngineRun
from pcs_engine.sample import sample
from pcs_engine.sizes import SizedExamples, check_sizes, phase_size
from pcs_engine.unread import unread_marks

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Features
    from pcs_engine.averages import Averages

_log = logging.getLogger("pcs.fit")


# long: the options of a fit and what they mean
@checks_arguments
def fit(
    recipe: Recipe | str | Path,
    subjects: Sequence[Subject] | Subject,
    backbone: Backbone | str | Path = "mini",
    *,
    seed: int = 0,
    watch: Sequence[Callable[[Progress], None]] = (),
    work: Path | None = None,
    resume: bool = False,
    adapter: str | Path | Personalization | None = None,
    keep: Callable[[Sequence[Personalization]], Sequence[bool]] | None = None,
    checkpoints: int = 8,
    memory: dict[str, Mapping[str, Tensor]] | None = None,
    precision: str = "fp32",
    checkpointing: bool = False,
    crop: str = "auto",
    size: tuple[int, int] | None = None,
    buckets: bool = False,
    start: Personalization | None = None,
    every: int = 0,
    each: Callable[[int, Sequence[Personalization]], None] | None = None,
    show_every: int = 0,
    show: Callable[[int, Mapping[str, Drawing]], None] | None = None,
) -> list[Personalization]:
    """Personalise: return one personalization per subject.

    Several subjects train together in one forward where every technique has a subject axis, with
    the gradients of separate runs; otherwise one after the other. ``work`` is a folder for
    checkpoints and cached pictures; with ``resume`` a fit goes on from there, bit for bit on a CPU.
    ``adapter`` is the folder of a pre-trained system's weights, where no plugin holds them for this
    backbone. ``keep`` is shown the subjects as they are at ``checkpoints`` even points, the end among
    them, and says of each whether it is the best so far: that one is returned. It may draw. ``memory``
    keeps what is drawn before a fit, as class pictures, for the next fit that is given it. ``precision``
    "bf16" or "fp16" keeps the frozen weights in it while training (see :mod:`pcs_engine.precision`);
    ``checkpointing`` computes activations again in backward, which takes time and spares memory. ``crop`` says
    which part of a picture is shown (:data:`pcs_engine.cropping.CROPS`); what it loses is logged. ``size``
    is height and width of the pictures, the backbone's own where it is None; with ``buckets`` each has the size
    of its own shape, of about as many pixels (:mod:`pcs_engine.buckets`): a batch holds one size, and
    subjects train one after the other.
    ``start`` is a finished fit of the same recipe, backbone and concepts to go on with: its tensors are the
    start, the optimizer and the draws are new. ``each`` is given the number of steps done and the
    subjects as they are after every ``every`` steps but the last. ``show`` is given that number and what draws
    each subject by name (:data:`pcs_engine.live.Drawing`), after every ``show_every`` steps but the last.

    Under `torchrun` or `accelerate launch` the processes fit the same subjects together, one device each:
    parts of a step, or rows of each role, are shared out. All draw the numbers that one process would, so
    that the gradient is that of one process but for the order of sums, and end with the same weights bit for
    bit. Only the first asks ``keep`` and writes checkpoints, into a ``work`` that all see; a fit goes on with
    as many processes as it began with. Losses that are told and stored are those of a process's own rows.

    Raises
    ------
    InputError
        A subject without images, or with a token that already means something; processes that differ; a
        ``start`` of something else.
    RecipeError, ConflictError
        The recipe does not fit together, or its steps cannot be shared out over the processes.
    UnknownNameError
        The backbone has no such scheduler.
    CapabilityError
        The recipe cannot run on this family of backbones, or the device computes nothing in this precision.
    """
    if keep is not None and resume:
        raise InputError("a fit that chooses among its checkpoints cannot be resumed: start anew")
    from pcs_core.assembly import load_recipe

    recipe = load_recipe(recipe, backbone=backbone)  # refuses a family before its weights are read
    check_models(recipe, backbone)
    opened: Any = open_backbone(backbone) if isinstance(backbone, str | Path) else backbone
    check_count("checkpoints", checkpoints)
    check_count("every", every, 0 if each is None else 1)
    check_count("show_every", show_every, 0 if show is None else 1)
    check_count("seed", seed, 0)
    check_switch("buckets", buckets)
    own_size = (opened.card.size[0], opened.card.size[1])
    with sized(opened, size):
        subjects, sizes = checked(recipe, subjects, opened, crop=crop, buckets=buckets)
        if start is not None:
            subjects = [continued_subject(start, recipe, opened, subjects)]
            adapter = adapter_to_keep(start, adapter)
        base = find_adapter(recipe, opened, adapter) if needs_adapter(recipe) else None
        results: list[Personalization] = []
        memory = {} if memory is None else memory  # class pictures serve every subject of the class
        # further models are opened for one subject
        groups = fit_groups(recipe, subjects, apart=buckets or bool(recipe.models))
        for number, group in enumerate(groups):
            fitting = Fitting(
                recipe, group, opened, seed, watch, work, resume, memory, number, len(groups), base
            )
            fitting.keep, fitting.looks = keep, checkpoints
            fitting.precision_name, fitting.checkpointing = precision, checkpointing
            fitting.crop, fitting.start, fitting.every, fitting.each = crop, start, every, each
            fitting.show_every, fitting.show = show_every, show
            fitting.chosen_size, fitting.own_size = size, own_size
            fitting.sizes = [sizes[number]] if buckets else []
            with suspended(opened):
                results += fitting.run()
            trained = size_of(fitting.fusion)
            del fitting
            free_circles(trained)
    return results


def answer_of(
    keep: Callable[[Sequence[Personalization]], Sequence[bool]],
    finished: Sequence[Personalization],
) -> list[bool]:
    """Return what a fit's ``keep`` says of each subject.

    Raises
    ------
    InputError
        It says something else than a truth for each.
    """
    answer: Any = keep(finished)
    try:
        flags = [bool(one) for one in answer]
    except TypeError:  # no sequence
        flags = []
    if len(flags) != len(finished):
        raise InputError(
            f"keep: it returned {str(answer)[:60]!r}, and is to return True or False for each of the "
            f"{len(finished)} subjects that it is shown"
        )
    return flags


def fit_groups(
    recipe: Recipe, subjects: Sequence[Subject], *, apart: bool = False
) -> list[list[Subject]]:
    """Return the subjects by who trains together: all, or one after the other, as where they are ``apart``."""
    # subjects share one stack of parameters: they need the same number of concepts
    alike = len({len(s.concepts) for s in subjects}) == 1
    together = len(subjects) == 1 or (
        not apart and alike and all(u.technique.stacks_subjects for u in recipe.uses)
    )
    return [list(subjects)] if together else [[s] for s in subjects]


def checked(
    recipe: Recipe,
    subjects: Sequence[Subject] | Subject,
    backbone: Backbone,
    *,
    crop: str = "auto",
    buckets: bool = False,
) -> tuple[list[Subject], list[tuple[tuple[int, int], ...]]]:
    """Return the subjects as the fit shows them, cropped, and with ``buckets`` the size of each picture.

    What is not shown or not read is logged.

    Raises
    ------
    PcsError
        As :func:`fit`, what can be known before anything is made.
    """
    check_sampler(recipe, backbone)
    if recipe.caption_dropout and not needs_pictures(recipe):
        raise RecipeError(
            f"fit.caption_dropout: {recipe.id!r} has no phase that shows pictures with captions"
        )
    given = given_subjects(subjects, backbone.card.size)
    for phase in recipe.phases:
        check_count(f"phase {phase.name!r}: steps", phase.steps, 0)
    check_subjects(given, backbone, trains=needs_pictures(recipe))
    check_rows(recipe, backbone, len(given))
    if buckets:
        check_buckets(recipe, recipe.phases)
    sizes = [picture_sizes(subject, backbone) if buckets else () for subject in given]
    whole = (backbone.card.size[0], backbone.card.size[1])
    crops = [crop_subject(s, row or whole, crop) for s, row in zip(given, sizes, strict=True)]
    for subject, (_, lines) in zip(given, crops, strict=True):
        for line in (*unread_marks(recipe, subject), *lines):
            _log.warning("%s", line)
    return [subject for subject, _ in crops], sizes


@dataclass
class Fitting:
    """One fit of subjects that train together."""

    recipe: Recipe
    subjects: Sequence[Subject]
    backbone: Backbone
    seed: int
    watch: Sequence[Callable[[Progress], None]]
    work: Path | None
    resume: bool
    memory: dict[str, Mapping[str, Tensor]]
    offset: int = 0
    groups: int = 1
    base: tuple[Personalization, str] | None = None
    keep: Callable[[Sequence[Personalization]], Sequence[bool]] | None = None
    looks: int = 0
    precision_name: str = "fp32"
    checkpointing: bool = False
    crop: str = "auto"
    chosen_size: tuple[int, int] | None = None
    """What the fit was given as the size of its pictures."""
    own_size: tuple[int, int] | None = None
    """The backbone's."""
    sizes: Sequence[Sequence[tuple[int, int]]] = ()
    """Of each picture of the one subject, where they differ."""
    start: Personalization | None = None
    every: int = 0
    each: Callable[[int, Sequence[Personalization]], None] | None = None
    show_every: int = 0
    show: Callable[[int, Mapping[str, Drawing]], None] | None = None
    best: dict[str, Personalization] = field(default_factory=dict)

    def run(self) -> list[Personalization]:
        """Prepare, train every phase, and return the personalizations."""
        self.prepare()
        with Attachment(self.backbone, self.fusion, fitting=True) as net, self.precision.lower():
            if self.checkpointing:
                net.use_checkpointing()
            if self.reporter.total:
                training = self.training(net)
                for number in range(len(self.phases)):
                    if phase := self.enter(number):
                        train_phase(training, number, phase)
            return self.finish()

    def prepare(self) -> None:
        """Ask what is known of the subjects and what is plugged in, on the bare network."""
        self.run_ = EngineRun(
            self.recipe,
            self.backbone,
            seed=self.seed,
            start_seed=None if self.start is None else self.start.seed,
            names=[s.name for s in self.subjects],
            concepts=[s.concepts for s in self.subjects],
            work=self.work,
            memory=self.memory,
        )
        self.precision = Precision(self.precision_name, self.backbone)
        for phase in self.recipe.phases:
            phase_size(phase, self.backbone)
        self.run_.models = self._models()
        self.processes = join(self.backbone.device)
        check_shared(self.recipe.phases, self.recipe.uses, self.processes.count)
        self.card = self.backbone.card
        self.answers = self._ask()
        features, per_subject = unite(self.answers)
        self.run_.features = features
        self.per_subject = per_subject
        self.fusion = fusion = self._fuse(features)
        self.phases = phases = self._phases()
        self.reporter = Reporter(
            self.watch,
            sum(p.steps for p in phases),
            tuple(s.name for s in self.subjects),
            self.offset,
            self.groups,
        )
        behind = 0 if self.start is None else steps_behind(self.start)
        purpose = ("fit", f"after {behind}") if behind else ("fit",)
        self.rngs = [generator(self.seed, *purpose, s.name) for s in self.subjects]
        self.snapshots: dict[str, dict[str, Tensor]] = {}
        self.checkpoints = checkpoints = self._checkpoints(fusion, self.rngs, self.snapshots)
        self.reporter.losses = checkpoints.losses
        self.stopped: dict[int, dict[str, int]] = {
            int(n): dict(after) for n, after in checkpoints.value("stopped", {}).items()
        }

    def _models(self) -> Mapping[str, OpenedModel]:
        """Open the further models of the recipe, while the network is bare and whole."""
        if not self.recipe.models:
            return {}
        (subject,) = self.subjects

        return open_models(
            self.recipe,
            self.backbone,
            subject,
            seed=self.seed,
            fit=partial(fit, memory=self.memory, crop=self.crop),
            keep=partial(kept, self.work, self.resume),
            say=self.run_.log,
        )

    def _models_identity(self) -> dict[str, Any]:
        return {name: model.identity() for name, model in self.run_.models.items()}

    def _ask(self) -> list[Answers]:
        """Ask what is known of the subjects; of pictures of several sizes, name the use that needs one.

        Raises
        ------
        CapabilityError
            A use failed with pictures of several sizes.
        """
        several = len({size for row in self.sizes for size in row}) > 1
        try:
            return ask(self.run_, self.subjects, self.sizes)
        except PluginError as error:
            if not several:
                raise
            raise CapabilityError(
                f"with pictures of several sizes: {error}; it may need one size: leave the buckets out"
            ) from error

    def training(self, net: Attachment) -> Training:
        """Return what the phases have in common, with pictures encoded: ``net`` holds the fusion."""
        self.run_.full_precision = self.precision.lifted
        self._start_alike(self.checkpoints, self.fusion)
        self.supply = self._supply(net, self.phases, self.rngs)
        return Training(
            self.run_,
            net,
            self.supply,
            self.checkpoints,
            self.precision,
            self.reporter,
            subjects=len(self.subjects),
            look=lambda averages: self._look_along_the_way(self.fusion, averages),
            snapshots=self.snapshots,
            stopped=self.stopped,
        )

    def enter(self, number: int) -> Phase | None:
        """Return phase ``number``, with what it shows encoded; None where it has no step."""
        phase = self.phases[number]
        if not phase.steps:
            return None
        self._own_size()
        self._enter(self.supply, phase, first=not number)
        return phase

    def finish(self) -> list[Personalization]:
        """Return what was learned, the best that was seen of each."""
        self._own_size()
        with self.precision.lifted():
            finished = self._finish(self.fusion)
            self._look(finished)
        return [self.best.get(artifact.subject, artifact) for artifact in finished]

    def _fuse(self, features: Features) -> Fusion:
        fusion = self._fused(features)
        self.run_.plug(fusion, partial(self._fused, features))
        return fusion

    def _fused(self, features: Features) -> Fusion:
        fusion = merge_fusions(self.run_.call("fuse", features=features))
        if self.start is not None:
            before = adapter_of(self.start, self.backbone)
            import_tensors(fusion, {**before, **self.start.tensors})
        elif self.base is not None:
            import_tensors(fusion, dict(self.base[0].tensors))
        else:
            check_stacked(fusion, len(self.subjects))
        return fusion

    def _phases(self) -> list[Phase]:
        # without pictures only what is rendered is left to learn from
        pictures = any(s.images for s in self.subjects)
        once = [
            p for p in self.recipe.phases if not p.pretrain and (pictures or RENDERED in p.batch)
        ]
        self.cycle = once
        return [p for _ in range(self.recipe.cycles) for p in once]

    def _checkpoints(
        self,
        fusion: Fusion,
        rngs: Sequence[Generator],
        snapshots: dict[str, dict[str, Tensor]],
    ) -> Checkpoints:
        return Checkpoints(
            self.work,
            "+".join(s.name for s in self.subjects),
            fusion,
            rngs,
            identity={
                "recipe": self.recipe.hash,
                "backbone": self.backbone.card.hash,
                "seed": self.seed,
                "precision": self.precision_name,
                "number of processes": self.processes.count,
                "start": self.start and digest(self.start.tensors),
                "size": self.chosen_size and list(self.chosen_size),
                "buckets": True if self.sizes else None,
                "set of further models": self._models_identity() or None,
            },
            resume=self.resume,
            snapshots=snapshots,
            writes=self.processes.index == 0,
        )

    def _start_alike(self, checkpoints: Checkpoints, fusion: Fusion) -> None:
        """See to it that all processes train the same, from the same values."""
        names = [s.name for s in self.subjects]
        position = {"subjects": names, "checkpoint": checkpoints.position}
        self.processes.agree({**checkpoints.identity, **position})
        self.processes.equalise(t for edit in fusion.edits for t in edit.owned().values())

    def _supply(
        self,
        net: Attachment,
        phases: Sequence[Phase],
        rngs: Sequence[Generator],
    ) -> FitSupply:
        self.roles = sorted({r for p in phases for r, n in p.batch.items() if n})
        self.latents: Latents = {}
        self.scaled = SizedExamples()
        self.bucketed = BucketExamples()
        check_sizes(phases, net.fusion, self.backbone)
        if self.sizes:
            check_one_size(net.fusion)
        self.size = phase_size(next(p for p in phases if p.steps), self.backbone)
        pools, table, buckets = self._encode(net)
        concepts = [[c.token for c in s.concepts] for s in self.subjects]
        return FitSupply(
            self.run_, net, pools, table, rngs, self.precision, concepts, self.processes, buckets
        )

    def _encode(self, net: Attachment) -> tuple[list[Pool], CaptionTable, list[Bucket]]:
        buckets: list[Bucket] = []
        with self.precision.whole():
            if self.sizes:
                table = CaptionTable()
                for size, features in self.bucketed.of(self.per_subject, self.sizes).items():
                    with sized(self.backbone, size):
                        pools, _ = encode_pools(net, features, self.roles, self.latents, table)
                    buckets.append(Bucket(size, pools, share_of(features)))
            else:
                features = self.scaled.at(self.per_subject, self.size)
                pools, table = encode_pools(net, features, self.roles, self.latents)
        if net.fusion.source is not None:
            for caption in net.fusion.source.captions:
                table.add(0, caption)
        return pools, table, buckets

    def _enter(self, supply: FitSupply, phase: Phase, *, first: bool) -> None:
        """Ask again what uses say before a phase that is not the first; encode what is new, or its size.

        A resumed fit crosses the borders behind it too, in order: a use that is silent at one of them
        leaves what it said before. The texts are encoded when the phase begins, as always.
        """
        before = self.size
        self.size = phase_size(phase, self.backbone)
        asked = not first and ask_at_border(self.run_, self.answers, phase.name)
        if asked:
            self.run_.features, self.per_subject = unite(self.answers)
        if asked or self.size != before:
            supply.pools, supply.table, supply.buckets = self._encode(supply.net)

    def _own_size(self) -> None:
        """Let the backbone have the fit's size again, after batches of others."""
        if self.sizes:
            backbone: Any = self.backbone
            backbone.at(*self.card.size)

    def _look(self, finished: Sequence[Personalization]) -> None:
        keep = self.keep
        if keep is None:
            return
        flags = self.processes.first(lambda: answer_of(keep, finished), len(finished))
        for artifact, best in zip(finished, flags, strict=True):
            if best:
                self.best[artifact.subject] = artifact

    def _look_along_the_way(self, fusion: Fusion, averages: Averages) -> None:
        """Look at the artifacts of this moment, and give them away, where either is due before the end."""
        done, total = self.reporter.done, self.reporter.total
        if done >= total:
            return
        self._own_size()
        look = done * self.looks // total > (done - 1) * self.looks // total
        due = self.every and done % self.every == 0
        if self.show is not None and done % self.show_every == 0 and self.processes.index == 0:
            device = self.backbone.device
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                averages.in_place(),
                self.precision.lifted(),
            ):
                self.show(done, self._drawings(fusion))
        if not ((look and self.keep) or (due and self.each)):
            return
        with averages.in_place(), self.precision.lifted():
            finished = self._finish(fusion)
            if look:
                self._look(finished)
            if due and self.each and self.processes.index == 0:
                given = [
                    replace(artifact, extra={**artifact.extra, "steps": self._steps(index)})
                    for index, artifact in enumerate(finished)
                ]
                self.each(done, given)

    def _drawings(self, fusion: Fusion) -> dict[str, Drawing]:
        """Return what draws each subject as it is now: with the network itself where there is one alone."""
        if len(self.subjects) > 1:  # of a stack, which is small, one slice each
            return {a.subject: partial(sample, a, self.backbone) for a in self._finish(fusion)}
        (subject,) = self.subjects
        tensors, keep = self._features_to_keep()
        drawing = live_drawing(
            self.recipe,
            self.backbone,
            fusion,
            name=subject.name,
            concepts=subject.concepts,
            features={k: tensors[k][0] for k in keep},
        )
        return {subject.name: drawing}

    def _steps(self, index: int) -> int:
        """Return how many steps a subject was trained for, in the fit that this one goes on with too."""
        phases = self.cycle * self.recipe.cycles
        taken = steps_taken(phases, self.reporter.done, self.stopped, index)
        return taken + (0 if self.start is None else steps_behind(self.start))

    def _features_to_keep(self) -> tuple[dict[str, Tensor], list[str]]:
        """Return the features [S ...] by name, and the names of those that a drawing needs."""
        features, self.run_.phase = self.run_.features, ""
        tensors = dict(features.tensors)
        keep = list(features.keep)
        for index, subject in enumerate(self.subjects):
            answers = self.run_.call_at(
                "extract",
                lambda technique, implementation: (
                    "moment" in implementation.argnames and "finish" in technique.extract_moments
                ),
                subject=subject,
                masks=Masks(),
                moment="finish",
            )
            for _, extra in answers:
                for key in extra.keep:
                    tensors.setdefault(
                        key, torch.zeros(len(self.subjects), *extra.tensors[key].shape)
                    )[index] = extra.tensors[key]
                    keep.append(key)
        return tensors, list(dict.fromkeys(keep))

    def _finish(self, fusion: Fusion) -> list[Personalization]:
        tensors, keep = self._features_to_keep()
        card = self.backbone.card
        stored, extra = self._own_tensors(fusion)
        if self.precision_name != "fp32":
            extra = {**extra, "precision": self.precision_name}
        if stored_as := getattr(self.backbone, "stored_as", ""):
            extra = {**extra, "weights": stored_as}
        if self.checkpointing:
            extra = {**extra, "gradient_checkpointing": True}
        if self.crop != "auto":
            extra = {**extra, "crop": self.crop}
        if self.chosen_size is not None:
            extra = {**extra, "size": list(self.chosen_size)}
        if self.sizes:
            shown = sorted({size for row in self.sizes for size in row})
            extra = {**extra, "buckets": [list(size) for size in shown]}
        if self.run_.models:
            extra = {**extra, "models": self._models_identity()}
        if self.start is not None:
            started = origin(self.start, self.seed)
            extra = {**extra, "started_from": started, "steps": self._steps(0)}
        return [
            Personalization(
                recipe=self.recipe,
                backbone=replace(card, size=self.own_size or card.size),
                concepts=subject.concepts,
                tensors=stored(index),
                extra={**extra, **self._stops_of(index)},
                features={k: tensors[k][index].detach().cpu() for k in keep},
                seed=self.seed if self.start is None else self.start.seed,
                losses={name: values[index] for name, values in self.reporter.losses.items()},
                subject=subject.name,
            )
            for index, subject in enumerate(self.subjects)
        ]

    def _own_tensors(
        self, fusion: Fusion
    ) -> tuple[Callable[[int], dict[str, Tensor]], dict[str, Any]]:
        """Return what an artifact stores: all, or what a fit changed of pre-trained weights."""
        if self.base is None:
            return (lambda index: export_tensors(fusion, index)), {}
        base, name = self.base
        phases = [p for p in self.recipe.phases if not p.pretrain]
        globs = [glob for phase in phases for glob in phase.train]

        def stored(index: int) -> dict[str, Tensor]:
            tensors = export_tensors(fusion, index)
            return {
                k: v
                for k, v in tensors.items()
                if not name or any(fnmatchcase(k, glob) for glob in globs)
            }

        reference = {"name": name, "sha256": digest(base.tensors)} if name else {}
        return stored, ({"adapter": reference} if reference else {})

    def _stops_of(self, index: int) -> dict[str, Any]:
        """Return after how many steps of which phases a subject asked to be trained no further."""
        stops = [
            {"phase": self.cycle[number % len(self.cycle)].name, "steps": after[str(index)]}
            for number, after in sorted(self.stopped.items())
            if str(index) in after
        ]
        return {"stopped": stops} if stops else {}


def check_stacked(fusion: Fusion, subjects: int) -> None:
    """Refuse parameters that subjects of one forward would share.

    Raises
    ------
    RecipeError
        Names the use and the place of the edit.
    """
    if subjects == 1:
        return
    for edit in fusion.edits:
        if not edit.stacked and any(
            isinstance(t, torch.nn.Parameter) for t in edit.owned().values()
        ):
            raise RecipeError(
                f"the use {edit.owner!r} has one set of parameters at {edit.key(0)!r} for {subjects} "
                "subjects that train together: set `stacks_subjects = False` on its technique, or "
                "stack its parameters [S, ...] and give the edit `stacked=True`"
            )


__all__ = ["Progress", "fit"]
