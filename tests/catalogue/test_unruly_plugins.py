"""A plugin that misbehaves while it is imported is a line of ``pcs doctor``: the others go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core.catalogue import Catalogue, catalogue, trial
from pcs_core.catalogue.discovery import is_users_interrupt

GOOD = """
from pcs_core.hookspecs import catalogue_hookimpl as hookimpl

@hookimpl
def techniques():
    return {}
"""
RAISES = {
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit('no')",
    "SystemExit": "import sys; sys.exit(3)",
    "Own": "class Own(BaseException): pass\nraise Own('mine')",
    "RecursionError": "def f(): f()\nf()",
    "MemoryError": "raise MemoryError",
}
IN_A_HOOK = """
from pcs_core.hookspecs import catalogue_hookimpl as hookimpl

@hookimpl
def techniques():
    {}
"""


@pytest.mark.parametrize("kind", sorted(RAISES))
@pytest.mark.parametrize("place", ["import", "hook"])
def test_whatever_it_raises_is_a_line(
    kind: str, place: str, install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = RAISES[kind]
    if place == "hook":
        text = IN_A_HOOK.format(text.replace("\n", "\n    "))
    install("x-unruly", text)
    install("x-good", GOOD)
    known = Catalogue.load("x-unruly,x-good")
    assert [p.distribution for p in known.plugins()] == ["x-good"]
    (broken,) = known.broken
    assert broken.distribution == "x-unruly"
    assert broken.error.startswith(kind)


def test_what_it_prints_and_warns_about_is_a_note(
    install: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    install("x-loud", f"import warnings\nprint('hello')\nwarnings.warn('old')\n{GOOD}")
    install("x-closes", f"import sys\nsys.stdout.close()\n{GOOD}")
    known = Catalogue.load("x-loud,x-closes")
    assert known.broken == []
    remarks = {p.distribution: p.remarks for p in known.plugins()}
    assert "prints 'hello'" in remarks["x-loud"]
    assert "warns UserWarning: old" in remarks["x-loud"]
    assert "closes the standard output" in remarks["x-closes"]
    assert capsys.readouterr() == ("", "")
    for module in ("x_loud.plugin", "x_closes.plugin"):  # another command imports them anew
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("PCS_PLUGINS", "x-loud,x-closes")
    catalogue.cache_clear()
    request.addfinalizer(catalogue.cache_clear)
    assert main(["doctor", "--json"]) in (0, 1)
    notes = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["state"] == "note"]
    assert any("prints 'hello'" in f["text"] for f in notes)


def test_a_ctrl_c_is_the_user_s() -> None:
    """Sent by a signal into running code it is told from one that code raises."""
    code = """
import signal
import time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs behind
from pcs_core.catalogue.discovery import is_users_interrupt
print("ready", flush=True)
try:
    while True:
        time.sleep(0.01)
except KeyboardInterrupt as error:
    print(is_users_interrupt(error))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "True\n"
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        assert not is_users_interrupt(error)


FATAL = {
    "exits": ("import os; os._exit(3)", "with exit code 3"),
    "exits in silence": ("import os; os._exit(0)", "with exit code 0"),
    "kills": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "crashes": ("import ctypes; ctypes.string_at(1)", "SIGSEGV"),
    "hangs": ("import threading; threading.Event().wait()", "still being imported after"),
}


@pytest.mark.parametrize("kind", sorted(FATAL))
@pytest.mark.parametrize("place", ["import", "hook"])
def test_what_no_process_survives_is_a_line(
    kind: str, place: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "LONGEST", 1.5)
    text, said = FATAL[kind]
    if place == "hook":
        text = IN_A_HOOK.format(text)
    install("x-fatal", text)
    install("x-good", GOOD)
    for _ in range(2):  # the second time it is known
        known = Catalogue.load("x-fatal,x-good")
        assert [p.distribution for p in known.plugins()] == ["x-good"]
        (broken,) = known.broken
        assert broken.distribution == "x-fatal"
        assert said in broken.error


def test_what_was_seen_is_kept_until_a_file_changes(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = install("x-fatal", "import os; os._exit(3)")
    assert Catalogue.load("x-fatal").broken

    def never(points: object) -> dict[str, str]:
        raise AssertionError("it is known already")

    with monkeypatch.context() as patched:
        patched.setattr(trial, "tried", never)
        assert Catalogue.load("x-fatal").broken
    (root / "x_fatal" / "plugin.py").write_text(GOOD)
    assert not Catalogue.load("x-fatal").broken


@pytest.mark.parametrize("reach", ["os.close(1)", "os.write(1, b'{}')", "os.system('echo {}')"])
def test_what_reaches_the_output_itself_is_kept_from_it(
    reach: str, install: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    install("x-reaches", f"import os\n{reach}\n{GOOD}")
    known = Catalogue.load("x-reaches")
    assert known.broken == []
    (plugin,) = known.plugins()
    assert any("past Python" in remark for remark in plugin.remarks)
    print("heard", flush=True)
    assert capfd.readouterr().out == "heard\n"


def test_a_module_in_the_folder_of_the_command_is_not_imported(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("import os; os._exit(9)")
    monkeypatch.chdir(tmp_path)
    install("x-good", GOOD)
    assert Catalogue.load("x-good").broken == []
