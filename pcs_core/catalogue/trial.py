"""The process in which plugins are tried (see :mod:`pcs_core.catalogue.probing`), from both its ends."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import IO, Any

from pcs_core.catalogue.discovery import FoundPlugin, overheard
from pcs_core.catalogue.probing import FINE, GUARDED

LONGEST = 60.0
"""Seconds that one plugin may take until it has said what it holds."""
STARTS = 600.0
"""Seconds until the process says anything: on a busy machine Python itself takes some."""
MARK = "pcs-probe "
"""How a line begins that the process says of a plugin."""


def tried(points: Mapping[str, EntryPoint]) -> dict[str, str]:
    """Try plugins one after the other; go on behind one that takes its process along."""
    verdicts: dict[str, str] = {}
    while waiting := [key for key in points if key not in verdicts]:
        begun, lost = None, ""
        with _process([(key, points[key]) for key in waiting]) as (process, lines):
            while True:
                try:
                    line = lines.get(timeout=STARTS if begun is None else LONGEST)
                except queue.Empty:
                    lost = f"it was still being imported after {LONGEST:.0f} s"
                    break
                if line is None:
                    break
                begun = line["key"]
                if "verdict" in line:
                    verdicts[begun], begun = line["verdict"], None
            if begun is not None and not lost:
                lost = _end_of(process.wait())
        if begun is None:
            # it ended between two, or never began: what is left is not to blame
            return verdicts | {key: FINE for key in points if key not in verdicts}
        verdicts[begun] = f"{lost} (tried in a process of its own)"
    return verdicts


def _end_of(code: int) -> str:
    if code >= 0:
        return f"it ends the process that imports it, with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it ends the process that imports it, by {signal.Signals(-code).name}"
    return f"it ends the process that imports it, by signal {-code}"


@contextlib.contextmanager
def _process(
    points: Sequence[tuple[str, EntryPoint]],
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[Any]]]:
    """Start the process that tries ``points``; its lines come through the queue, None at their end."""
    order = [
        {"key": key, "name": p.name, "value": p.value, "of": p.dist.name if p.dist else ""}
        for key, p in points
    ]
    paths = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as text:
        json.dump(order, text)
        text.seek(0)
        process = subprocess.Popen(
            # -P: what lies in the folder of the command is not imported
            [sys.executable, "-P", "-c", "from pcs_core.catalogue.trial import answer; answer()"],
            stdin=text,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        lines: queue.Queue[Any] = queue.Queue()
        assert process.stderr is not None
        follower = threading.Thread(target=_follow, args=(process.stderr, lines), daemon=True)
        follower.start()
        try:
            yield process, lines
        finally:
            with contextlib.suppress(OSError):
                # what it started goes with it
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()
            follower.join(5)
            process.stderr.close()


def _follow(stream: IO[str], lines: queue.Queue[Any]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            if line.startswith(MARK):
                with contextlib.suppress(ValueError):
                    lines.put(json.loads(line.removeprefix(MARK)))
    lines.put(None)


def answer() -> None:
    """Import the plugins that the standard input lists, each behind a line that says so."""
    from pcs_core.catalogue.holdings import read_holdings

    written = 0
    for order in json.load(sys.stdin):
        _say(key=order["key"])
        verdict = FINE
        with contextlib.suppress(BaseException), overheard([]):
            loaded = EntryPoint(order["name"], order["value"], "").load()
            read_holdings([FoundPlugin(order["name"], order["of"], "", order["value"], loaded)])
        try:
            size = os.fstat(1).st_size
        except OSError:
            verdict = GUARDED
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            size = written
        if size != written:
            verdict, written = GUARDED, size
        _say(key=order["key"], verdict=verdict)


def _say(**line: str) -> None:
    os.write(2, f"\n{MARK}{json.dumps(line)}\n".encode())
