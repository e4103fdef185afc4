"""One fit among others: where it stands, and what it does alone in a step that all take together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_cli.many.lane_net import LaneNet
from pcs_engine.phase_loop import (
    PhaseState,
    Training,
    end_step,
    enter_phase,
    leave_phase,
    loss_terms,
    take_gradients,
    update,
)
from pcs_engine.rates import set_rates

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import FitStep, Fusion, Personalization, Phase, Recipe
    from pcs_engine.fit import Fitting
    from pcs_engine.fit_rows import Asked, FitSupply
    from pcs_engine.precision import Precision


class Losses:
    """Takes the losses of a part in place of their gradients, which all fits take in one backward."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def backward(self, loss: Tensor, into: Any = None, *, again: bool = False) -> None:
        """Keep a loss."""
        self.taken.append(loss)


class Lane:
    """A fit of one subject that takes its steps beside others."""

    def __init__(self, fitting: Fitting, precision: Precision) -> None:
        fitting.prepare()
        fitting.precision = precision
        self.fitting = fitting
        self.net = LaneNet(fitting.backbone, fitting.fusion)
        self.training: Training | None = None
        self.over = False
        self.number, self.index = 0, 0
        self.phase: Phase
        self.state: PhaseState
        self.terms: Mapping[str, Tensor] = {}

    @property
    def recipe(self) -> Recipe:
        """The recipe of the fit."""
        return self.fitting.recipe

    @property
    def fusion(self) -> Fusion:
        """What the fit plugs in."""
        return self.fitting.fusion

    @property
    def supply(self) -> FitSupply:
        """Where its rows come from."""
        return self.fitting.supply

    @property
    def loop(self) -> Training:
        """What its phases have in common."""
        assert self.training is not None
        return self.training

    def join(self, whole: Attachment, slot: int, ready: Callable[[], None]) -> None:
        """Take a place in the network; the first time the pictures are encoded, and a phase is entered."""
        self.net.place(whole, slot, ready)
        if self.training is None:
            if not self.fitting.reporter.total:
                self.over = True
                return
            self.training = self.fitting.training(self.net)
            self._enter(0)

    def _enter(self, number: int) -> None:
        for at in range(number, len(self.fitting.phases)):
            phase = self.fitting.enter(at)
            entered = None if phase is None else enter_phase(self.loop, at, phase)
            if phase is not None and entered is not None:
                self.number, self.phase = at, phase
                self.state, self.index = entered
                if self.index < phase.steps:
                    return
                leave_phase(self.loop, phase)
        self.over = True

    def ask(self, part: int) -> Asked | None:
        """Draw the rows of a part of the step; None where the step has fewer parts."""
        if part >= self.phase.accumulate:
            return None
        if not part:
            set_rates(self.state.optimizer, self.phase, self.index)
        return self.supply.ask(self.phase, self.index, part, self.state.stops)

    def losses(self, step: FitStep) -> Sequence[Tensor]:
        """Return the losses of a part, over the parts of the step."""
        losses: Any = Losses()
        self.terms = loss_terms(self.loop.run, self.phase, step)
        take_gradients(losses, self.phase, self.terms, self.state.params)
        return losses.taken  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Step by the gradients that came, and go on to the next step or phase."""
        update(self.loop, self.phase, self.index, self.state)
        if end_step(self.loop, self.number, self.phase, self.index, self.state, self.terms):
            leave_phase(self.loop, self.phase)
            self._enter(self.number + 1)
        else:
            self.index += 1

    def finish(self) -> list[Personalization]:
        """Return what was learned."""
        return self.fitting.finish()
