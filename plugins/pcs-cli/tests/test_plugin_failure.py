"""A failure inside a plugin is one message with its name, and its traceback is to be had."""

from __future__ import annotations

import pytest

from pcs_cli import main as entry
from pcs_core.errors import PluginError


@pytest.mark.parametrize("traceback", [False, True])
def test_a_plugin_that_fails_is_named(
    traceback: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: object) -> int:
        try:
            raise ZeroDivisionError("inside")
        except ZeroDivisionError as error:
            raise PluginError("pcs-scale: the use 'scale' failed in its hook `fuse`") from error

    monkeypatch.setattr(entry, "run", fail)
    monkeypatch.setenv(entry.TRACEBACK, "1" if traceback else "0")
    assert entry.main(["fit"]) == 1
    shown = capsys.readouterr().err
    assert "pcs-scale: the use 'scale' failed in its hook `fuse`" in shown
    assert "internal error" not in shown
    assert ("ZeroDivisionError: inside" in shown) == traceback
    assert ("PCS_TRACEBACK=1 in front" in shown) != traceback
