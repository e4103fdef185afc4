"""Uses that do not understand each other are refused when the recipe loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_cli.meetings import meetings
from pcs_core import load_recipe
from pcs_core.data import Words
from pcs_core.errors import ConflictError, RecipeError

HEAD = '[recipe]\nid = "mine"\n'


def recipe(folder: Path, *uses: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(HEAD + "".join(f"\n[[use]]\n{use}\n" for use in uses))
    return path


ADAPTER = 'technique = "attention.parallel_adapter"'
ENCODER = 'technique = "encoders.image"'


def test_a_word_that_nobody_writes_is_refused_at_its_place(tmp_path: Path) -> None:
    path = recipe(tmp_path, f'{ENCODER}\nkey = "imgae"', ADAPTER)
    with pytest.raises(
        RecipeError,
        match=r"mine.toml:9: attention.parallel_adapter reads the feature 'image', which no technique "
        r"of the recipe gives, did you mean 'imgae'",
    ):
        load_recipe(path)


def test_a_word_with_two_writers_is_a_conflict(tmp_path: Path) -> None:
    path = recipe(tmp_path, ENCODER, f'{ENCODER}\nname = "again"')
    with pytest.raises(
        ConflictError, match=r"mine.toml:8: the feature 'image'.*'encoders.image' and 'again'"
    ):
        load_recipe(path)
    load_recipe(recipe(tmp_path, ENCODER, f'{ENCODER}\nname = "again"\nkey = "other"'))


def test_what_the_user_gives_needs_no_writer(tmp_path: Path) -> None:
    load_recipe(recipe(tmp_path, 'technique = "masks.masked_loss"'))
    with pytest.raises(RecipeError, match=r"reads the region 'mask.sky'"):
        load_recipe(recipe(tmp_path, 'technique = "masks.masked_loss"\nregions = "mask.sky"'))


def test_the_meetings_of_a_recipe(tmp_path: Path) -> None:
    rows = meetings(load_recipe(recipe(tmp_path, f"{ENCODER}\ncrop = true", ADAPTER)).uses)
    adapter = "attention.parallel_adapter"
    assert ("feature", "image", ("encoders.image",), (adapter,)) in rows
    assert ("stream", "image", (adapter,), ()) in rows
    assert ("region", "mask.concept.*", ("(given)",), ("encoders.image",)) in rows


def test_a_word_has_a_kind() -> None:
    with pytest.raises(ValueError, match="'image' is no word: write '<kind>:<name>'"):
        Words(reads=("image",))
