"""Kills and other signals at random moments of a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from random import Random

from reliability.commands import Ended, start
from reliability.deaths import Fault, Trials

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ATTEMPTS = 5
LATER = 1.1
"""The last moment of a kill, as a share of the seconds that the command took undisturbed."""


def kill(trials: Trials, rng: Random) -> Iterator[Fault]:
    """Kill a command at a random moment, go on, and yield what is bad."""
    return send(trials, rng, signal.SIGKILL)


def end(trials: Trials, rng: Random) -> Iterator[Fault]:
    """Send one of :data:`SIGNALS` at a random moment, go on, and yield what is bad."""
    return send(trials, rng, rng.choice(SIGNALS))


def send(trials: Trials, rng: Random, number: signal.Signals) -> Iterator[Fault]:
    """Send a signal at a random moment, go on, and yield what is bad.

    One that comes when the command is over is sent once more, to a command begun anew.
    """
    scenario, seconds = trials.scenario, trials.seconds
    for _ in range(ATTEMPTS):
        moment = rng.uniform(0.0, LATER) * seconds
        scenario.set_up(trials.place)
        running = start(scenario.arguments, trials.place, trials.notes, program=scenario.program)
        ended = running.wait(kill_after=moment, by=number)
        if ended.code != 0:
            break
        seconds = min(seconds, ended.seconds)
    where = f"{number.name} after {moment:.2f} s"
    for kind, what in (*signalled(ended, number), *trials.judge(ended)):
        yield Fault(scenario.name, 0, where, kind, what)


def signalled(ended: Ended, number: signal.Signals) -> Iterator[tuple[str, str]]:
    """Yield what is bad of how a command ended that was sent ``number``, which may have come too late."""
    if number == signal.SIGKILL or ended.code == 0:
        return
    early = not ended.err and ended.code == -number  # before the command had begun to listen
    if not early and ended.code != 130:
        yield "exit code", f"{ended.code} in place of 130: {ended.err[-200:]}"
    elif not early and "interrupted" not in ended.err:
        yield "said nothing", ended.err[-200:]
