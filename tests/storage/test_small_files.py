"""Small files of text are read within bounds, and names in them never lead out of their folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcs_core.errors import ArtifactError, InputError, RecipeError
from pcs_core.small_files import (
    MOST_DEPTH,
    MOST_DIGITS,
    check_bounds,
    inside,
    is_plain_name,
    parse_json,
    parse_toml,
    read_text,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=6), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(data=PLAIN)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_plain_json_is_read_to_the_letter(data: object) -> None:
    assert parse_json(json.dumps(data, ensure_ascii=False), "x.json") == data
    assert parse_json(json.dumps(data, indent=1), "x.json") == data


@given(text=st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_json_or_refused_with_its_place(text: str) -> None:
    try:
        parse_json(text, "x.json")
    except InputError as error:
        assert str(error).startswith("x.json")


@given(text=st.text("[]{}.=\"'#\n\\ab1_ ", max_size=60))
@settings(max_examples=400)
def test_any_text_is_toml_as_python_reads_it_or_refused(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(RecipeError, match=r"^x\.toml"):
            parse_toml(text, "x.toml", error=RecipeError)
        return
    assert parse_toml(text, "x.toml") == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("\n\n" + "[" * 60 + "]" * 60, "line 3"),
        ("9" * 5000, "digits"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        (r'{"a": "\ud800"}', "U\\+D800"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_json(text, "x.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".".join(["a"] * 10_000) + " = 1", "nested"),
        ('"a" . ' * 10_000 + "b = 1", "nested"),
        ("[" + ".".join(["a"] * 10_000) + "]", "nested"),
        ("x = 1\ny = " + "[" * 10_000, "line 2"),
        ("x = " + "9" * 5000, "digits"),
        ("x = " + "9_" * 5000 + "9", "digits"),
    ],
)
def test_toml_beyond_the_bounds_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_toml(text, "x.toml", error=RecipeError)


def test_what_stands_in_strings_and_comments_has_no_depth() -> None:
    deep, long = "[" * 200, "9" * (MOST_DIGITS + 9)
    assert parse_json(json.dumps({"a": deep, "b": long}), "x") == {"a": deep, "b": long}
    text = f'a = \'{deep}\' # {deep}{long}\nb = """\n{deep} \\" {long}"""\nc = "{"x." * 99}"'
    assert parse_toml(text, "x")["c"] == "x." * 99
    within = "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)
    assert parse_json(within, "x") == json.loads(within)


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    pipe, endless = tmp_path / "pipe", tmp_path / "endless.txt"
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    for file in (pipe, endless, tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            read_text(file)
    large = tmp_path / "large.txt"
    large.write_bytes(b"x" * 1001)
    with pytest.raises(InputError, match="larger than"):
        read_text(large, most=1000)


@given(
    name=st.text(max_size=20)
    | st.sampled_from(("..", ".", "../a", "a/b", "/etc/passwd", "C:a", "a\\b"))
)
@settings(max_examples=300)
def test_a_name_of_a_file_stays_in_its_folder(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "folder"
    try:
        path = inside(folder, name, "the manifest")
    except InputError as error:
        assert "the manifest" in str(error)
        assert not is_plain_name(name)
        return
    assert path.parent == folder
    assert Path(os.path.normpath(path)).parent == folder


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "own").write_text("x")
    (folder / "near").symlink_to(folder / "own")
    with pytest.raises(InputError, match="link out of its folder"):
        inside(folder, "link", "the manifest")
    assert inside(folder, "near", "the manifest").read_text() == "x"
    assert inside(folder, "link", "an index", links=True).is_file()


def test_an_artifact_whose_weights_are_a_link_is_refused(tmp_path: Path) -> None:
    from pcs_core import fit, load, load_recipe, open_backbone, save
    from pcs_testing import make_subject

    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    save(fit(recipe, make_subject(), open_backbone("tiny"))[0], tmp_path / "made")
    weights = tmp_path / "made" / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="link out of its folder"):
        load(tmp_path / "made")


LONG = {
    "quotes": '"',
    "apostrophes": "'",
    "a word": "a",
    "escapes": '"\\"',
    "open strings": '"""\\"x',
    "digits": "9" * 399 + " ",
    "a key in parts": "a . ",
    "marks of a comment": '#"',
}


@pytest.mark.parametrize("kind", sorted(LONG))
def test_what_is_long_takes_no_longer_than_its_length(kind: str) -> None:
    """Megabytes of one sign were once looked through from each of its places."""
    text = LONG[kind] * (2**20 // len(LONG[kind]))
    started = time.process_time()
    with contextlib.suppress(InputError):
        check_bounds(text, "place")
    assert time.process_time() - started < 5
