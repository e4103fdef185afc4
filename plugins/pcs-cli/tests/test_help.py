"""Help is there for every command, and imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

COMMANDS = (
    "fit",
    "sample",
    "merge",
    "systems",
    "techniques",
    "plugins",
    "explain",
    "show",
    "doctor",
    "check",
    "version",
)

SCRIPT = """
import sys
from pcs_cli.main import main
for command in {commands!r}:
    assert main([*command, "--help"]) == 0, command
    heavy = [m for m in ("torch", "numpy", "PIL", "diffusers", "transformers") if m in sys.modules]
    assert not heavy, (command, heavy)
assert main(["plugins"]) == 0
assert "torch" not in sys.modules
assert main(["techniques"]) == 0
assert "torch" not in sys.modules
"""


def test_help_of_every_command_imports_no_torch() -> None:
    script = SCRIPT.format(commands=[[], *([name] for name in COMMANDS)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"  {name}  " in done.stdout


def test_version(pcs: Callable) -> None:
    from pcs_core import __version__

    assert pcs("--version").out == f"pcs {__version__}\n"
    assert f"pcs-core {__version__}" in pcs("version").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fitt"], "fit"),
        (["system"], "systems"),
        (["fit", "x", "y", "--tokn", "<a>", "--out", "z"], "--token"),
        (["fit", "x", "y"], "--out"),
        (["sample", "--out", "z"], "Missing argument"),
        (["sample", "a", "b", "-n", "0", "--out", "z"], "count"),
    ],
)
def test_usage_errors_exit_2_and_name_the_nearest(
    pcs: Callable, arguments: list[str], says: str
) -> None:
    done = pcs(*arguments)
    assert done.code == 2
    assert says in done.err
    assert not done.out


def test_a_reader_that_leaves_is_no_error() -> None:
    # the listing is longer than a pipe holds, so that writing meets the closed end
    script = "import typer\nfrom pcs_cli import app, main, output\n"
    script += "app.app = typer.Typer()\n"
    script += "app.app.command()(lambda: output.emit('x' * 1_000_000))\n"
    script += "raise SystemExit(main.main([]))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_an_internal_error_is_short_unless_asked_for(
    pcs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pcs_cli.main as module

    def fail(_: object) -> int:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(module, "run", fail)
    done = pcs()
    assert done.code == 1
    assert "internal error: ZeroDivisionError: by zero" in done.err
    assert "PCS_TRACEBACK=1" in done.err
    done = subprocess.run(
        [sys.executable, "-m", "pcs_cli.main", "merge", "alone", "--out", "x"],
        env={**os.environ, "PCS_TRACEBACK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_full_disk_is_one_line(pcs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import pcs_cli.main as module

    def fail(_: object) -> int:
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr(module, "run", fail)
    done = pcs()
    assert (done.code, done.err) == (2, "Error: /data/x: No space left on device\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("could not create a primitive"),
    ],
    ids=["python", "torch", "oneDNN"],
)
def test_too_little_memory_is_one_line(
    error: Exception, pcs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pcs_cli.main as module

    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(module, "run", fail)
    done = pcs()
    assert done.code == 2
    assert done.err.startswith("Error: not enough memory: ")
    assert len(done.err.splitlines()) == 1
