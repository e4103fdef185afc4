"""``pcs explain`` shows the words by which techniques meet."""

from __future__ import annotations

import json

import pytest

from pcs_cli.main import main


def test_explain_shows_who_reads_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ip-adapter"]) == 0
    shown = capsys.readouterr().out
    assert "Words, by which they meet" in shown
    assert main(["explain", "ip-adapter", "--json"]) == 0
    words = json.loads(capsys.readouterr().out)["words"]
    (feature,) = [row for row in words if row["kind"] == "feature"]
    assert feature["name"] == "image"
    assert feature["writers"] == ["encoders.image"]
    assert feature["readers"] == ["attention.parallel_adapter"]
