"""Text from files that others made cannot move a terminal's cursor or turn its words around."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcs_cli.main import main
from pcs_cli.output import printable
from pcs_core import fit, load_recipe, open_backbone, save
from pcs_testing import make_subject

HOSTILE = "rex\x1b]0;owned\x07\x1b[2J\r\u202egpj.exe\u2066\x9b31m"


@given(text=st.text())
def test_what_is_printed_moves_nothing(text: str) -> None:
    shown = printable(text)
    moving = ("Cc", "Cf", "Zl", "Zp", "Cs")
    assert all(category(c) not in moving or c in "\n\t\u200c\u200d" for c in shown)
    if text.isprintable():
        assert shown == text
    quoted = json.dumps(text, ensure_ascii=False)
    assert json.loads(printable(quoted)) == text


def test_show_writes_out_what_would_move_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    artifact = fit(recipe, make_subject("rex"), open_backbone("tiny"))[0]
    save(replace(artifact, subject=HOSTILE), tmp_path / "artifact")  # as somebody else may
    assert main(["show", str(tmp_path / "artifact")]) == 0
    printed = capsys.readouterr().out
    assert r"rex\u001b]0;owned" in printed
    assert not set(printed) & set("\x1b\x07\r\u202e\u2066\x9b")
    assert main(["show", str(tmp_path / "artifact"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["subject"] == HOSTILE


def test_an_error_writes_it_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"no-{HOSTILE}"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x07\r\u202e\u2066\x9b")
