"""The fits of a queue: planned, begun, published, each as ``pcs fit`` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_cli.claims import release, take
from pcs_cli.fingerprint import facts, with_references
from pcs_cli.fit import diverged
from pcs_cli.fit_plan import FitPlan, plan_fit, shown_as
from pcs_cli.fit_start import FitStart
from pcs_cli.fit_work import Workplace, open_workplace, partial_folder
from pcs_cli.many.joint import kind_of, why_apart
from pcs_cli.many.journal import BEGUN, DONE, FAILED, Journal, digest
from pcs_cli.many.packer import Packer
from pcs_cli.output import complain, notice
from pcs_cli.output_folder import Destination
from pcs_core.backbone import suspended
from pcs_core.errors import InputError, PcsError
from pcs_engine.adapters import find_adapter, needs_adapter
from pcs_engine.drawn_size import sized
from pcs_engine.fit import Fitting, checked

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.many.queue_file import Line
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


BUCKETS = "their batches hold one size each"
"""Why fits of buckets share no forward."""


@dataclass(frozen=True, slots=True)
class Options:
    """What all fits of a queue have in common."""

    out: Path
    backbone: str
    device: str
    precision: str = "fp32"
    checkpointing: bool = False
    together: int = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One fit of a queue that nothing speaks against."""

    line: Line
    kind: tuple[Any, ...]
    facts: Mapping[str, Any]
    apart: str = ""
    size: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """A number of all that decides the result."""
        return digest(self.facts)


@dataclass
class Fits:
    """Runs the jobs of a queue, kind by kind."""

    options: Options
    backbone: Backbone
    journal: Journal
    jobs: Sequence[Job]
    places: dict[int, tuple[FitPlan, Workplace]] = field(default_factory=dict)
    memory: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    forwards: int = 0

    def __post_init__(self) -> None:
        height, width = self.backbone.card.size
        self.own_size = height, width

    def run(self) -> None:
        """Fit all of them. A kill leaves what is whole, and the checkpoints of those that ran."""
        kinds: dict[Any, list[int]] = {}
        for number, job in enumerate(self.jobs):
            # what shares no forward with others is of a kind of its own system
            kinds.setdefault((job.apart, *job.kind), []).append(number)
        try:
            for (apart, *_), numbers in kinds.items():
                if apart and len(numbers) > 1:
                    notice(f"{len(numbers)} fits train one after the other: {apart}")
                with sized(self.backbone, self.jobs[numbers[0]].size):
                    self._kind(apart, numbers)
        finally:
            for _, place in self.places.values():
                place.close()

    def _kind(self, apart: str, numbers: Sequence[int]) -> None:
        """Fit jobs of one kind, the backbone at their size."""
        if apart == BUCKETS:
            for number in numbers:
                self._whole(number)
            return
        packer = Packer(
            self.backbone,
            together=1 if apart else self.options.together,
            begin=self.begin,
            done=self.done,
            failed=self.failed,
            say=notice,
            precision=self.options.precision,
            checkpointing=self.options.checkpointing,
        )
        packer.run(numbers)
        self.forwards += packer.forwards

    def _whole(self, number: int) -> None:
        """Fit one job as `pcs fit` does: a batch of one size is no place for another fit's rows."""
        try:
            with suspended(self.backbone):
                artifacts = self.begin(number).run()
        except PcsError as error:
            self.failed(number, error)
        else:
            self.done(number, artifacts)

    def begin(self, number: int) -> Fitting:
        """Make the fit of a job, or take it up where it was left."""
        job = self.jobs[number]
        plan = plan_of(job.line, self.options, self.backbone)
        place = open_workplace(plan.destination, job.facts, resume=True)
        self.places[number] = plan, place
        self.journal.note(job.line.name, BEGUN, job.digest)
        base = (
            find_adapter(plan.recipe, self.backbone, None) if needs_adapter(plan.recipe) else None
        )
        (subject,), sizes = checked(
            plan.recipe, plan.subjects, self.backbone, crop=plan.crop, buckets=plan.buckets
        )
        fitting = Fitting(
            plan.recipe,
            [subject],
            self.backbone,
            plan.seed,
            (),
            place.work,
            place.resumed,
            self.memory,
            base=base,
        )
        fitting.precision_name = self.options.precision
        fitting.checkpointing = self.options.checkpointing
        fitting.crop = plan.crop
        fitting.chosen_size, fitting.own_size = plan.size, self.own_size
        fitting.sizes = sizes if plan.buckets else []
        return fitting

    def done(self, number: int, artifacts: list[Personalization]) -> None:
        """Write what was learned under its name."""
        from pcs_core.storage import save

        (artifact,) = artifacts
        plan, place = self.places.pop(number)
        job = self.jobs[number]
        if why := diverged(artifact):
            place.discard()
            self._note_failure(job, why)
            return
        save(with_references(artifact, plan.subjects), place.result)
        place.publish(plan.destination)
        self.journal.note(job.line.name, DONE, job.digest, losses=dict(artifact.losses))
        place.discard()
        self.made.append(plan.destination.folder)
        notice(f"{len(self.made) + len(self.failures)} of {len(self.jobs)}: {job.line.name}")

    def failed(self, number: int, error: PcsError) -> None:
        """Say why a fit cannot go on, and keep nothing of it."""
        if number in self.places:
            _, place = self.places.pop(number)
            if place.trained:
                place.close()
            else:
                place.discard()
        self._note_failure(self.jobs[number], str(error))

    def _note_failure(self, job: Job, why: str) -> None:
        complain(f"{job.line.place}: {why}")
        self.failures[job.line.name] = why
        self.journal.note(job.line.name, FAILED, job.digest, why=why)


def plan_of(line: Line, options: Options, backbone: Backbone) -> FitPlan:
    """Return the plan of a line's fit.

    Raises
    ------
    PcsError
        The first thing that is wrong with it.
    """
    plan = plan_fit(
        FitStart(line.system, (line.folder,), options.backbone),
        out=options.out / line.name,
        noun=line.noun,
        token=line.token,
        overrides=line.settings,
        seed=line.seed,
        device=options.device,
        resume=True,
        overwrite=False,
        precision=options.precision,
        checkpointing=options.checkpointing,
        crop=line.crop,
        size=line.size,
        buckets=line.buckets,
        opened=backbone,
    )
    # an artifact is named after its folder in the result, as that of a fit is after the pictures'
    (subject,) = plan.subjects
    return replace(plan, subjects=(replace(subject, name=line.name),))


def job_of(line: Line, options: Options, backbone: Backbone) -> Job:
    """Return the job of a line, whose pictures were read and let go of again.

    Raises
    ------
    PcsError
        As :func:`plan_of`, and what speaks against the fit besides.
    """
    plan = plan_of(line, options, backbone)
    with sized(backbone, plan.size):
        checked(plan.recipe, plan.subjects, backbone, crop=plan.crop, buckets=plan.buckets)
    known = facts(plan.recipe, plan.subjects, backbone.card, plan.seed, plan.device)
    known |= {"precision": options.precision, **shown_as(plan)}
    concepts = len(plan.subjects[0].concepts)
    apart = BUCKETS if plan.buckets else why_apart(plan.recipe)
    return Job(line, (*kind_of(plan.recipe), concepts, plan.size), known, apart, plan.size)


def plan_queue(
    lines: Sequence[Line], options: Options, backbone: Backbone, journal: Journal
) -> tuple[list[Job], list[Path], list[str]]:
    """Return what is left to fit, what is there already, and what is wrong, a sentence each with its place."""
    jobs: list[Job] = []
    there: list[Path] = []
    wrong: list[str] = []
    for line in lines:
        out = options.out / line.name
        try:
            free = replace(options, out=options.out / ".planned") if out.is_dir() else options
            job = job_of(line, free, backbone)
            if not out.is_dir():
                jobs.append(job)
            elif journal.finished(line.name, job.digest, out):
                there.append(out)
                # a kill between the artifact and the end of its work left that behind
                release(take(out))
                Workplace(partial_folder(Destination(out, overwrite=False))).discard()
            else:
                raise InputError(
                    f'{out} is the result of something else: give the line another "name", or remove it'
                )
        except PcsError as error:
            wrong.append(f"{line.place}: {error}")
    return jobs, there, wrong
