"""Runs commands for the tests beside it, each in a fork with a bound on memory and time, and watches them.

Reads a JSON object a line from its standard input ({"argv", "folder", "seconds", "gigabytes"}) and answers
with what became of it. Everything heavy is imported once, before the first fork. What a command must never do
(write outside of its folder, read what is marked secret, look for a host, start a process, import a module
that somebody's file names) is seen by an audit hook, whatever library does it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

FORBIDDEN_IMPORTS = ("this", "antigravity", "evil", "turtledemo")
"""Modules that hostile files ask for."""
SECRET = "secret"
"""A file of this stem lies where no command may read."""


def watch(folder: Path, events: list[str]) -> None:
    """Note what is forbidden from now on; ``folder`` is where the command may write."""
    home = str(folder.resolve())
    allowed = (home, os.environ.get("PCS_CACHE", home), "/dev/", "/proc/")

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and str(arguments[0]).partition(".")[0] in FORBIDDEN_IMPORTS:
            events.append(f"imports {arguments[0]}")
        elif event in ("socket.connect", "socket.getaddrinfo"):
            events.append(f"{event} {arguments[-1]!r}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            events.append(f"{event} {arguments[0]!r}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
            writes = any(c in (mode or "") for c in "wxa+") or bool(
                (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if Path(path).stem == SECRET:
                events.append(f"reads {path}")
            real = os.path.realpath(path)
            if writes and not real.startswith(allowed) and "__pycache__" not in real:
                events.append(f"writes {path}")
        elif event in ("os.mkdir", "os.rename", "shutil.rmtree", "os.symlink"):
            target = os.path.realpath(os.fsdecode(arguments[0]))
            if not target.startswith((*allowed, "/tmp")):
                events.append(f"{event} {target}")

    sys.addaudithook(seen)


def child(order: dict[str, Any], answer: int) -> None:
    """Run the command and write what became of it; never returns."""
    folder = Path(order["folder"])
    os.chdir(folder)
    # two bounds: what is mapped, which stops an allocation at once, and the processor's time
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + int(order["gigabytes"] * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (int(order["seconds"]), int(order["seconds"]) + 5))
    signal.alarm(10 * int(order["seconds"]))  # on a busy machine it may wait for its turn
    events: list[str] = []
    out, err = io.StringIO(), io.StringIO()
    code: Any = "died"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        from pcs_cli.main import main

        watch(folder, events)
        try:
            code = main(order["argv"])
        except BaseException:
            traceback.print_exc()
    said = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "events": events[:20]}
    os.write(answer, json.dumps(said).encode())
    os._exit(0)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, run, wait; return what the child said, its processor seconds and its peak of memory in bytes."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        # a child with bytes or libraries that write by themselves must not disturb the answers
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        try:
            child(order, writes)
        finally:
            os._exit(70)
    os.close(writes)
    parts = []
    while part := os.read(reads, 1 << 16):
        parts.append(part)
    os.close(reads)
    _, status, usage = os.wait4(pid, 0)
    said: dict[str, Any] = {"code": f"ended with status {status}", "out": "", "err": ""}
    said |= {"events": []} | (json.loads(b"".join(parts)) if parts else {})
    said["seconds"] = usage.ru_utime + usage.ru_stime
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said["peak"] = max(0, usage.ru_maxrss - before) * 1024
    return said


def main() -> None:
    """Import what commands import, and answer orders until the input ends."""
    # the modules of the heaviest ways through the commands
    import diffusers  # noqa: F401
    import transformers  # noqa: F401

    import pcs_bench.report.write
    import pcs_bench.run.conduct
    import pcs_cli.main
    import pcs_core
    import pcs_diffusers.single_file

    _ = (pcs_bench, pcs_cli, pcs_diffusers)
    pcs_core.open_backbone("tiny")
    pcs_core.installed().heads()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
