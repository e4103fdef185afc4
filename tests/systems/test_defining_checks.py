"""Every system's defining check holds, and stops holding when its key setting is at zero."""

from __future__ import annotations

import pytest

from pcs_cli.main import main
from pcs_core.catalogue import catalogue

SYSTEMS = sorted(catalogue().ids("checks"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_holds(system: str) -> None:
    report = catalogue().get("checks", system)(neutral=False)
    assert report.system == system
    assert report.holds, [row for row in report.rows if not row.holds]


@pytest.mark.parametrize("system", SYSTEMS)
def test_fails_when_neutral(system: str) -> None:
    report = catalogue().get("checks", system)(neutral=True)
    assert not report.holds


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--neutral"], 1)])
def test_exit_codes(options: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "lora-dreambooth", *options]) == code
    assert "rank" in capsys.readouterr().out


def test_every_recipe_has_a_check() -> None:
    assert set(catalogue().recipe_files()) <= set(SYSTEMS)
