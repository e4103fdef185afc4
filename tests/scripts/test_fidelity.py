"""The page of fidelity names tests that exist and systems and techniques that are there."""

from __future__ import annotations

import pytest
from pages import fidelity
from pydantic import ValidationError

from pcs_core.catalogue import catalogue


def test_every_named_test_exists() -> None:
    missing = [id for id in sorted(fidelity.tests_named()) if not fidelity.exists(id)]
    assert not missing


def test_a_test_that_is_gone_is_told() -> None:
    here = "tests/scripts/test_fidelity.py"
    assert fidelity.exists(f"{here}::test_every_named_test_exists")
    assert not fidelity.exists(f"{here}::test_that_was_renamed")
    assert not fidelity.exists("tests/scripts/test_gone.py::test_that")
    assert not fidelity.exists(f"{here}::test_every_named_test_exists::test_inside")


def test_what_is_on_record_is_of_something() -> None:
    heads, techniques = catalogue().heads(), set(catalogue().ids("techniques"))
    known = {id for id, head in heads.items() if head.built} | techniques
    assert {fault.system for fault in fidelity.faults()} <= known
    assert {entry.technique for entry in fidelity.technique_parity()} <= techniques


def test_a_fault_without_a_guard_is_refused() -> None:
    fault = {"system": "oft", "fault": "a", "right": "b"}
    with pytest.raises(ValidationError, match="test"):
        fidelity.Fault.model_validate(fault)
    with pytest.raises(ValidationError, match="test"):
        fidelity.Fault.model_validate({**fault, "test": "by hand"})
