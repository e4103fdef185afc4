"""Fits of one kind packed into one forward: one that is over leaves, and the next takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pcs_cli.many.joint import Apart, Joint, check_packs
from pcs_cli.many.lane import Lane
from pcs_cli.many.together import evaluate, read_texts
from pcs_core.backbone import Attachment, suspended
from pcs_core.errors import PcsError
from pcs_engine.precision import Precision
from pcs_engine.prepare import unite

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import FitStep, Personalization
    from pcs_engine.fit import Fitting
    from pcs_engine.fit_rows import Asked


class Packer:
    """Trains fits, ``together`` at a time.

    Each fit draws, clips, steps, stops and is checkpointed as it would alone; what they share is the forward
    and the backward. ``begin`` makes the fit of a job, ``done`` is given what it learned as soon as it is
    over, ``failed`` the error of one that cannot go on, which stops none of the others. ``say`` is told why
    fits train one after the other.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        together: int,
        begin: Callable[[int], Fitting],
        done: Callable[[int, list[Personalization]], None],
        failed: Callable[[int, PcsError], None],
        say: Callable[[str], None],
        precision: str = "fp32",
        checkpointing: bool = False,
    ) -> None:
        self.backbone, self.together = backbone, together
        self.begin, self.done, self.failed, self.say = begin, done, failed, say
        self.precision = Precision(precision, backbone)
        self.checkpointing = checkpointing
        self.lanes: dict[int, Lane] = {}
        self.ready: deque[int] = deque()
        self.waiting: dict[int, Lane] = {}
        self._put = False
        self.forwards = 0

    def run(self, jobs: Iterable[int]) -> None:
        """Train all ``jobs``."""
        self.ready.extend(jobs)
        with suspended(self.backbone):
            while self._fill():
                joint = self._join()
                with (
                    Attachment(self.backbone, joint.fusion, fitting=True) as net,
                    self.precision.lower(),
                ):
                    if self.checkpointing:
                        net.use_checkpointing()
                    over = self._train(net, joint)
                for job, artifacts in over:
                    del self.lanes[job]
                    self.done(job, artifacts)

    def _fill(self) -> bool:
        """Give free places to the next jobs; return whether there is anything to train."""
        while self.ready and len(self.lanes) < self.together:
            job = self.ready.popleft()
            with self._blaming(job):
                lane = self.waiting.pop(job, None)
                self.lanes[job] = lane or Lane(self.begin(job), self.precision)
                if self.together > 1 and self.ready:
                    self._see(self.lanes[job])
        return bool(self.lanes)

    def _see(self, lane: Lane) -> None:
        """Make no second fit beside one that can have none."""
        try:
            check_packs(lane.recipe, lane.fusion)
        except Apart as error:
            self.together = 1
            self.say(f"fits train one after the other: {error}")

    def _join(self) -> Joint:
        """Return one fusion for the fits that train; where they have none together, for the first of them."""
        lanes = list(self.lanes.values())
        try:
            answers = [answer for lane in lanes for answer in lane.fitting.answers]
            features, _ = unite(answers)
            names = [answer.subject.name for answer in answers]
            return Joint(lanes, self.backbone, features, names)
        except PcsError as error:
            if len(lanes) == 1:
                raise
            self.say(f"fits train one after the other: {error}")
        self.together = 1
        others = list(self.lanes)[1:]
        self.ready.extendleft(reversed(others))
        self.waiting |= {job: self.lanes.pop(job) for job in others}
        return self._join()

    def _train(self, net: Attachment, joint: Joint) -> list[tuple[int, list[Personalization]]]:
        """Take steps until a fit is over; return those that are."""
        self._put = False

        def put() -> None:
            if not self._put:
                joint.put()
                self._put = True

        for slot, (job, lane) in enumerate(list(self.lanes.items())):
            with self._blaming(job):
                lane.join(net, slot, put)
        slots = len(self.lanes)
        while len(self.lanes) == slots and not any(lane.over for lane in self.lanes.values()):
            self._step(net)
        over: list[tuple[int, list[Personalization]]] = []
        for job, lane in list(self.lanes.items()):
            if lane.over:
                with self._blaming(job):
                    put()
                    over.append((job, lane.finish()))
        return over

    def _step(self, net: Attachment) -> None:
        """Take one step of each fit."""
        parts = max(lane.phase.accumulate for lane in self.lanes.values())
        for part in range(parts):
            losses: list[Tensor] = []
            with self.precision.autocast():
                for job, lane, step in self._steps(net, part):
                    with self._blaming(job):
                        losses += lane.losses(step)
            if losses:
                self.precision.backward(torch.stack(losses).sum())
            self._put = False
        for job, lane in list(self.lanes.items()):
            with self._blaming(job):
                lane.settle()
            self._put = False  # what this fit made of its tensors is not in the network yet

    def _steps(self, net: Attachment, part: int) -> Sequence[tuple[int, Lane, FitStep]]:
        """Return a part of each fit's step, with the network asked for all of them at once."""
        asking: list[tuple[int, Lane, Asked]] = []
        for job, lane in list(self.lanes.items()):
            with self._blaming(job):
                if (asked := lane.ask(part)) is not None:
                    asking.append((job, lane, asked))
        conds = read_texts(net, [(lane, asked) for _, lane, asked in asking])
        made = [
            (job, lane, lane.supply.make(asked, cond))
            for (job, lane, asked), cond in zip(asking, conds, strict=True)
        ]
        answers = evaluate(net, [(lane, step) for _, lane, step in made])
        self.forwards += 1
        return [
            (job, lane, step if answer is None else _answered(step, answer))
            for (job, lane, step), answer in zip(made, answers, strict=True)
        ]

    def _blaming(self, job: int) -> Blame:
        return Blame(self, job)


def _answered(step: FitStep, answer: object) -> FitStep:
    return replace(step, forward=lambda: answer)  # type: ignore[arg-type, return-value]


class Blame:
    """Context of what one fit does: an error is its own, and the others go on without it."""

    def __init__(self, packer: Packer, job: int) -> None:
        self.packer, self.job = packer, job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, PcsError) or isinstance(error, Apart):
            return False
        self.packer.lanes.pop(self.job, None)
        self.packer.failed(self.job, error)
        return True
