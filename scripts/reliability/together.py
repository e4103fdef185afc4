"""Two commands at once into one folder: one does its work, the other says that it cannot, or when it may."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from reliability.commands import start
from reliability.deaths import Fault, Trials
from reliability.trees import difference

SAID = ("is at work in", "is not empty", "--resume", "meanwhile")
"""One of these is in the message of the one that does nothing."""


def meet(trials: Trials, rng: Random) -> Iterator[Fault]:
    """Start a command twice, the second at a random moment of the first; yield what is bad."""
    scenario, offset = trials.scenario, rng.uniform(0, 0.9) * trials.seconds
    scenario.set_up(trials.place)
    first = start(scenario.arguments, trials.place, trials.notes)
    first.rest(offset)
    second = start(scenario.arguments, trials.place, trials.notes.with_name("others"))
    both = (first.wait(), second.wait())
    where = f"a second one after {offset:.2f} s"

    def fault(kind: str, what: str) -> Fault:
        return Fault(scenario.name, 0, where, kind, what)

    if all(ended.code for ended in both):
        yield fault("lost", f"both refuse: {both[0].err[-150:]} | {both[1].err[-150:]}")
    for ended in both:
        if ended.hung or ended.traceback:
            yield fault("hang" if ended.hung else "traceback", ended.err[-300:])
        if ended.code and (ended.code != 2 or not any(words in ended.err for words in SAID)):
            yield fault("refused", f"exit {ended.code}: {ended.err[-200:]}")
    if unlike := difference(trials.tree(), trials.whole):
        yield fault("other result", unlike)
