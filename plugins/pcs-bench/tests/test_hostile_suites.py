"""A suite that somebody else wrote cannot write outside the benchmark's folder, nor end in a bug's message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcs_bench.run.store import PROTOCOL, Store
from pcs_bench.suites.reading import load
from pcs_core.errors import InputError

SUITE = """
[suite]
id = "own"
kind = "object"

[[subject]]
name = {name}
noun = "dog"

[prompt]
object = ["a photo of a {{token}} {{noun}}"]
"""


@pytest.mark.parametrize(
    "name", ["../../../escape", "/elsewhere", "a/b", "..", "a\\\\b", "c:x", "\\u001b[2J"]
)
def test_a_subject_names_no_folder_elsewhere(tmp_path: Path, name: str) -> None:
    file = tmp_path / "suite.toml"
    file.write_text(SUITE.format(name=f'"{name}"'))
    with pytest.raises(InputError, match="names a folder"):
        load(file)
    with pytest.raises(InputError, match="outside its folder|a character that names may not have"):
        Store(tmp_path / "out").references(name.encode().decode("unicode_escape"))


def test_a_usual_name_is_a_folder_of_the_benchmark(tmp_path: Path) -> None:
    assert Store(tmp_path).references("my dog").parent == tmp_path / "references"


KEYS = st.sampled_from(("suite", "subject", "prompts", "prompt", "images", "survey", "found"))
VALUES = st.sampled_from(("1", '"x"', "[]", "{}", "true", '["x"]', "[1]", '{ a = "b" }', "nan"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(("suite", "subject", "prompts", "prompt", "images", "survey", "found")),
    value=VALUES,
)
def test_wrong_types_are_refused(key: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    plain = "" if key == "suite" else '[suite]\nid = "own"\nkind = "object"\n'
    file.write_text(f"{key} = {value}\n{plain}")
    try:
        load(file)
    except InputError as error:
        assert str(error)


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"a": ' * 9999, '"x"'])
def test_a_protocol_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / PROTOCOL).write_text(content)
    with pytest.raises(InputError, match=PROTOCOL):
        Store(tmp_path).protocol()
