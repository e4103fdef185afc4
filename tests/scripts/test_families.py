"""The matrix of systems and families says what the code does, of every built system."""

from __future__ import annotations

from pathlib import Path

import families as script
import pytest
from pages.matrix import recorded, word

from pcs_core import open_backbone
from pcs_core.catalogue import catalogue


@pytest.mark.parametrize(
    ("system", "family"),
    [("lora-dreambooth", "SDXL"), ("p-plus", "SD 3, 3.5"), ("instantid", "clips")],
)
def test_what_is_recorded_is_what_happens(system: str, family: str, tmp_path: Path) -> None:
    shown = script.subject(tmp_path / "thing", clips=family == "clips")
    said = script.attempt(system, open_backbone(script.FAMILIES[family]), shown)
    assert recorded()[family][system] == said, "run scripts/families.py"


def test_every_built_system_is_in_it() -> None:
    assert set(recorded()) == set(script.FAMILIES)
    for systems in recorded().values():
        assert set(systems) == set(catalogue().recipe_files()), "run scripts/families.py"


def test_an_error_of_a_technique_is_no_refusal() -> None:
    assert word("") == "runs"
    assert word("the use 'a.b' acts on cross-attention, and there is none") == "refused"
    assert word("pcs-a: the use 'a.b' failed in its hook `fuse`: ValueError: 3") == "fails"
