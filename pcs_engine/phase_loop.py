"""One phase of a training: the loop of fits and of pre-trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pcs_core.backbone import trainable
from pcs_core.errors import RecipeError
from pcs_core.merge import flatten_losses, reduce_loss
from pcs_engine.averages import Averages
from pcs_engine.optimizers import make_optimizer
from pcs_engine.rates import set_rates
from pcs_engine.search import search
from pcs_engine.stops import Stops

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import Attachment
    from pcs_core.data import Constraint, FitStep, Phase
    from pcs_engine.checkpoints import Checkpoints
    from pcs_engine.precision import Precision
    from pcs_engine.progress import Reporter
    from pcs_engine.run import EngineRun


class Supply(Protocol):
    """What differs between trainings: where rows come from, and with whom gradients are shared."""

    def prepare(self, phase: Phase, params: Mapping[str, nn.Parameter]) -> None:
        """Get ready for a phase that trains ``params``, as by encoding what is constant in it."""

    def step(self, phase: Phase, index: int, part: int, stops: Stops) -> FitStep | None:
        """Return part ``part`` of the ``accumulate`` parts of step ``index``, with its rows.

        Subjects that are not ``stops.live`` have none; ``stops.ask`` is the step's ``stop``. None is a part
        that another process computes.
        """

    def replay(self, phase: Phase, index: int, part: int, stops: Stops) -> Callable[[], FitStep]:
        """Return what makes the same part again and again: the same rows and noise, texts read anew."""

    def share_gradients(self, phase: Phase, params: Iterable[nn.Parameter]) -> None:
        """Give all processes of this training the gradient of the whole step, where there are several."""

    def clip(self, params: Mapping[str, nn.Parameter], limit: float) -> None:
        """Scale gradients, of their own size by now, to a norm of at most ``limit``."""


@dataclass
class Training:
    """What the phases of one training have in common.

    ``look`` is called after each step, with a context in which the averages stand in for what trains.
    ``snapshots`` are parameters by name that a phase keeps at its beginning and another restores.
    ``stopped`` says of each subject after how many steps of which phase it asked to be left alone.
    """

    run: EngineRun
    net: Attachment
    supply: Supply
    checkpoints: Checkpoints
    precision: Precision
    reporter: Reporter
    subjects: int = 1
    look: Callable[[Averages], None] | None = None
    snapshots: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    stopped: dict[int, dict[str, int]] = field(default_factory=dict)


@dataclass
class PhaseState:
    """What changes in a phase: all of it is in a checkpoint."""

    params: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    averages: Averages
    stops: Stops
    stacked: list[Tensor]


def train_phase(training: Training, number: int, phase: Phase) -> None:
    """Train phase ``number`` of a training, from where its checkpoint left it.

    Raises
    ------
    RecipeError
        The phase trains nothing, or has no loss that depends on what it trains.
    """
    entered = enter_phase(training, number, phase)
    if entered is None:
        return
    state, start = entered
    for index in range(start, phase.steps):
        terms = learn(training, phase, index, state)
        if end_step(training, number, phase, index, state, terms):
            break
    leave_phase(training, phase)


def enter_phase(training: Training, number: int, phase: Phase) -> tuple[PhaseState, int] | None:
    """Return the state of a phase and the step it begins with; None where a later phase was reached before."""
    state = begin(training, phase, trainable(training.net.fusion))
    start = restore_state(training, number, state)
    if start is None:
        training.reporter.done += phase.steps
        return None
    training.reporter.done += start
    with training.precision.autocast():
        training.supply.prepare(phase, state.params)
    if phase.snapshot and not start:  # a resumed phase brought the one of its beginning
        training.snapshots[phase.snapshot] = {
            n: p.detach().clone() for n, p in state.params.items()
        }
    state.optimizer.zero_grad(set_to_none=True)
    return state, start


def leave_phase(training: Training, phase: Phase) -> None:
    """Bring back what the phase restores at its end."""
    if phase.restore:
        restore_snapshot(training, phase, trainable(training.net.fusion))


def begin(training: Training, phase: Phase, everything: dict[str, nn.Parameter]) -> PhaseState:
    """Return what a phase changes, at its beginning; only what it trains has gradients."""
    params = {n: p for n, p in everything.items() if any(fnmatchcase(n, g) for g in phase.train)}
    if not params:
        uses = ", ".join(use.name for use in training.run.recipe.uses)
        raise RecipeError(
            f"phase {phase.name!r} trains nothing: no parameter matches "
            f"{', '.join(phase.train)} (uses: {uses})"
        )
    for loss, globs in phase.reach.items():
        if not any(fnmatchcase(n, g) for n in params for g in globs):
            raise RecipeError(
                f"phase {phase.name!r}: {loss!r} should train {', '.join(globs)}, and nothing of that name "
                f"trains in it ({', '.join(phase.train)})"
            )
    optimizer = make_optimizer(phase, params)
    for name, param in everything.items():
        param.requires_grad_(name in params and not hasattr(optimizer, "search"))
    averages = Averages(params, phase.ema)
    names = stacked_names(training.net) & params.keys()
    stacked: list[Tensor] = [params[n] for n in params if n in names]
    stacked += [value for n, value in averages.values.items() if n in names]
    return PhaseState(params, optimizer, averages, Stops(training.subjects), stacked)


def stacked_names(net: Attachment) -> set[str]:
    """Return the names of the parameters that hold a slice per subject."""
    edits = [e for e in net.fusion.edits if e.stacked]
    return {f"{e.owner}/{e.key(0)}/{k}" for e in edits for k in e.owned()}


def restore_state(training: Training, number: int, state: PhaseState) -> int | None:
    """Put back what a checkpoint in this phase holds; return the step to go on from (None: past it)."""
    checkpoints = training.checkpoints
    start = checkpoints.restore(number, state.optimizer, state.params)
    if start:
        state.averages.restore(checkpoints.tensors, int(checkpoints.value("averaged", 0)))
        training.precision.restore(checkpoints.value("precision_state", {}))
        state.stops.restore(training.stopped.get(number, {}), state.stacked)
    return start


def learn(training: Training, phase: Phase, index: int, state: PhaseState) -> dict[str, Tensor]:
    """Take one optimizer step; return the loss terms [S] of its last part, of those computed here."""
    precision, params = training.precision, state.params
    set_rates(state.optimizer, phase, index)
    if hasattr(state.optimizer, "search"):
        return find(training, phase, index, state)
    terms: dict[str, Tensor] = {}
    for part in range(phase.accumulate):
        with precision.autocast():
            step = training.supply.step(phase, index, part, state.stops)
            if step is None:
                continue
            terms = loss_terms(training.run, phase, step)
        take_gradients(precision, phase, terms, params)
    update(training, phase, index, state)
    return terms


@torch.no_grad()
def find(training: Training, phase: Phase, index: int, state: PhaseState) -> dict[str, Tensor]:
    """Take one step of an optimizer that needs no gradient; return the loss terms [S] of what it chose."""
    with kept_within(training, phase, index, state.params):
        terms = search(training, phase, index, state, partial(loss_terms, training.run, phase))
    state.averages.update()
    state.stops.settle(index + 1, state.stacked)
    return terms


def update(training: Training, phase: Phase, index: int, state: PhaseState) -> None:
    """Step by the gradients that all parts of step ``index`` left."""
    precision, params = training.precision, state.params
    # the order matters: what overflowed in one process overflows in all, and a norm is of the true gradient
    training.supply.share_gradients(phase, params.values())
    precision.unscale(state.optimizer)
    if phase.clip:
        training.supply.clip(params, phase.clip)
    with kept_within(training, phase, index, params):
        precision.step(state.optimizer)
    state.optimizer.zero_grad(set_to_none=True)
    state.averages.update()
    state.stops.settle(index + 1, state.stacked)


@contextmanager
def kept_within(
    training: Training, phase: Phase, index: int, params: Mapping[str, nn.Parameter]
) -> Iterator[None]:
    """Bring what is updated inside to where the constraints want it."""
    before = {n: p.detach().clone() for n, p in params.items() if constraints_of(training, n)}
    yield
    with torch.no_grad():
        for name, value in before.items():
            for constraint in constraints_of(training, name):
                params[name].copy_(
                    constraint.project(name, value, params[name], index / phase.steps)
                )


def constraints_of(training: Training, name: str) -> list[Constraint]:
    """Return what an update of the parameter ``name`` keeps to, in order."""
    return [c for c in training.net.fusion.constraints if fnmatchcase(name, c.glob)]


def take_gradients(
    precision: Precision,
    phase: Phase,
    terms: Mapping[str, Tensor],
    params: Mapping[str, nn.Parameter],
) -> None:
    """Add the gradients of a step's terms [S] to what each of them may move.

    Raises
    ------
    RecipeError
        No term depends on what it may move.
    """
    groups: dict[tuple[str, ...], list[Tensor]] = {}
    for name, term in terms.items():
        globs = next((g for loss, g in phase.reach.items() if fnmatchcase(name, loss)), ("*",))
        groups.setdefault(globs, []).append(term)
    # a term that depends on nothing in this step, as of an update that is off, moves nothing
    totals = {globs: torch.stack(of).sum() / phase.accumulate for globs, of in groups.items()}
    totals = {globs: total for globs, total in totals.items() if total.requires_grad}
    if not totals:
        raise RecipeError(
            f"phase {phase.name!r}: none of its losses depends on what it trains "
            f"({', '.join(phase.train)})"
        )
    if not phase.reach:
        precision.backward(totals[("*",)])
        return
    last = next(reversed(totals))
    for globs, total in totals.items():
        into = [p for n, p in params.items() if any(fnmatchcase(n, g) for g in globs)]
        precision.backward(total, into, again=globs != last)


def loss_terms(run: EngineRun, phase: Phase, step: FitStep) -> dict[str, Tensor]:
    """Return the terms that count in a phase, each [S] in fp32."""
    losses = flatten_losses(run.call("regularize", step=step), phase.losses)
    if not losses:
        raise RecipeError(f"phase {phase.name!r}: no loss matches {', '.join(phase.losses)}")
    return {loss.name: reduce_loss(loss, step.batch) for loss in losses}


def end_step(
    training: Training,
    number: int,
    phase: Phase,
    index: int,
    state: PhaseState,
    terms: Mapping[str, Tensor],
) -> bool:
    """Report, look and write a checkpoint, as each is due; return whether the phase is over."""
    last = index + 1 == phase.steps or not state.stops.live
    reporter, checkpoints = training.reporter, training.checkpoints
    reporter.done += phase.steps - index if last else 1
    if reporter.due(index, last):
        reporter.report(phase, index, terms)
    if state.stops.after:
        training.stopped[number] = state.stops.state()
    if last:
        state.averages.give()
    # before the checkpoint: what was looked at is there when a fit goes on from it
    if training.look is not None:
        training.look(state.averages)
    extra: dict[str, Any] = {
        "averaged": state.averages.updates,
        "precision_state": training.precision.state(),
        "stopped": {str(n): after for n, after in training.stopped.items()},
    }
    checkpoints.maybe_write(
        number,
        phase.steps if last else index + 1,
        state.optimizer,
        state.params,
        losses=reporter.losses,
        last=last,
        tensors=dict if last else state.averages.tensors,  # given already at the end
        state=extra,
    )
    return last


@torch.no_grad()
def restore_snapshot(
    training: Training, phase: Phase, everything: Mapping[str, nn.Parameter]
) -> None:
    """Bring back the parameters that a phase before kept.

    Raises
    ------
    RecipeError
        None kept any under this name.
    """
    snapshot = training.snapshots.get(phase.restore)
    if snapshot is None:
        raise RecipeError(
            f"phase {phase.name!r} restores {phase.restore!r}, but no phase before it took a "
            f"snapshot of that name ({', '.join(training.snapshots) or 'there is none'})"
        )
    for name, value in snapshot.items():
        everything[name].copy_(value)
