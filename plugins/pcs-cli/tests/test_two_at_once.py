"""Of two commands that write to one place the later one replaces nothing, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_cli.drawn_pictures import drawing_into
from pcs_cli.output_folder import destination
from pcs_core.errors import InputError
from pcs_testing import make_picture


def write(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text(text)


def write_two(tmp_path: Path, overwrite: bool) -> None:
    """Begin the second command before the first has ended."""
    first, second = (destination(tmp_path / "out", overwrite=overwrite) for _ in range(2))
    with second.filling() as later:
        with first.filling() as ready:
            write(ready, "first")
        write(later, "second")


def test_the_later_one_is_kept_beside_the_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="written by another command meanwhile") as said:
        write_two(tmp_path, overwrite=False)
    assert (tmp_path / "out" / "manifest.json").read_text() == "first"
    assert (tmp_path / "out.new" / "manifest.json").read_text() == "second"
    assert str(tmp_path / "out.new") in str(said.value)
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.new"}


def test_with_overwrite_it_replaces_the_first(tmp_path: Path) -> None:
    write_two(tmp_path, overwrite=True)
    assert (tmp_path / "out" / "manifest.json").read_text() == "second"
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def draw_two(tmp_path: Path) -> None:
    first, second = (destination(tmp_path / "out", overwrite=False) for _ in range(2))
    with drawing_into(second, lambda count: "") as later:
        later.add(make_picture(1)[None])
        with drawing_into(first, lambda count: "") as ready:
            ready.add(make_picture(0)[None])
            ready.finish({})
        later.finish({})


def test_pictures_of_the_later_drawing_are_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="meanwhile"):
        draw_two(tmp_path)
    assert (tmp_path / "out" / "000.png").is_file()
    assert (tmp_path / "out.new" / "000.png").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.new"}
