"""A caption in any script is read to the letter, and bytes that are no text are refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders import captions

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=80)


@given(text=TEXT, mark=st.booleans(), ending=st.sampled_from(("\n", "\r\n", "")))
def test_each_line_is_a_caption(text: str, mark: bool, ending: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    lines = [" ".join(line.split()) for line in re.split("[\r\n]+", text)]
    file.write_bytes(b"\xef\xbb\xbf" * mark + ("\n".join(lines) + ending).encode())
    read = captions_of(file)
    # a mark in front that the text brings itself is one too many, and goes as well
    first = lines[0].removeprefix("\ufeff").strip()
    assert read in (
        tuple(line for line in lines if line),
        tuple(line for line in [first, *lines[1:]] if line),
    )


def captions_of(file: Path) -> tuple[str, ...]:
    return captions.read_captions(file)[0]


@given(content=st.binary(max_size=60))
def test_bytes_are_text_or_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    try:
        content.decode("utf-8-sig")
        is_text = b"\0" not in content  # which UTF-16 without its mark is full of
    except UnicodeDecodeError:
        is_text = False
    try:
        captions.read_captions(file)
    except InputError as error:
        assert not is_text
        assert str(file) in str(error)
    else:
        assert is_text


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(("a.png", "b.png", "c/d.png", "", "../a.png")),
            st.sampled_from(("text", "caption", "prompt", "note")),
            TEXT | st.none() | st.integers() | st.lists(TEXT, max_size=2),
        ),
        max_size=4,
    )
)
def test_a_table_is_read_row_by_row_or_refused(rows: list, tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    for image in images:
        if not image.exists():
            Image.new("RGB", (4, 4)).save(image)
    file = tmp_path / "metadata.jsonl"
    lines = [json.dumps({"file_name": name, key: value}) for name, key, value in rows]
    file.write_text("\n".join(lines), "utf-8")
    try:
        read, note = captions.read_table(file, images)
    except InputError as error:
        assert str(file) in str(error)
        return
    for name, key, value in rows:
        assert name in ("a.png", "b.png")
        if key == "note":
            assert "note" in note or "no captions" in note
        elif isinstance(value, str) and value:
            assert tmp_path / name in read


@given(content=st.text(max_size=80) | st.binary(max_size=80))
def test_any_table_of_commas_is_read_or_refused(content: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / "metadata.csv"
    file.write_bytes(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    )
    try:
        captions.read_table(file, [])
    except InputError as error:
        assert str(file) in str(error)
