"""A process that has the libraries in memory and runs the guards of a technique in forks of itself.

    python scripts/mutation/warm.py SOCKET

Loading torch, diffusers and transformers takes longer than most tests of a technique. They are loaded once; the
project's own modules never are: a fork imports each as it is in the tree at that moment, mutant and all.
`scripts/mutation/ask.py` asks for a run; when it is ended early, what runs for it ends too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def libraries() -> list[str]:
    """Return the modules outside of the tree that its techniques, tests and commands import, in their order."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.close(readable)
        with contextlib.suppress(Exception):
            for name in ("pytest", "pcs_cli.main", "pcs_testing"):
                importlib.import_module(name)
            from pcs_core.catalogue import catalogue

            for id in catalogue().ids("techniques"):
                catalogue().get("techniques", id)
        with os.fdopen(writable, "w") as pipe:
            json.dump(list(outside(ROOT)), pipe)
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        names: list[str] = json.load(pipe)
    os.waitpid(child, 0)
    return names


def outside(root: Path) -> Iterator[str]:
    """Yield the modules in memory whose file is not under ``root``."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and (file is None or root not in Path(file).parents):
            yield name


def answer(asked: socket.socket) -> None:
    """Run the guards of the technique that is asked for, and write their output and at last a status byte."""
    with asked:
        technique = asked.recv(1024).decode()
        cache = tempfile.mkdtemp(prefix="mutant-")
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setpgrp()
                os.environ["PCS_CACHE"] = cache
                os.dup2(asked.fileno(), 1)
                os.dup2(asked.fileno(), 2)
                from mutation import guards

                status = guards.run(technique)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                asked.sendall(bytes([status]))
                os._exit(0)
        ended = os.pidfd_open(child)
        with contextlib.suppress(OSError):
            select.select([ended, asked], [], [])  # the run is over, or who asked has gone
            os.killpg(child, signal.SIGKILL)
        os.close(ended)
        os.waitpid(child, 0)
        shutil.rmtree(cache, ignore_errors=True)


def main() -> None:
    """Load what the tree imports from elsewhere, then answer until this process is ended."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "scripts"))
    for name in libraries():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        while True:
            answer(listener.accept()[0])


if __name__ == "__main__":
    main()
