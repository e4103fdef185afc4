"""A backbone's table may do without a use."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import load_recipe
from pcs_core.errors import RecipeError

TEXT = """
[recipe]
id = "lean"

[[use]]
technique = "tokens.rare"

[[use]]
technique = "weights.lora"

[[phase]]
name = "tune"
steps = 1

[backbone.small]
remove = {removed}
"""


def write(folder: Path, removed: str) -> Path:
    path = folder / "lean.toml"
    path.write_text(TEXT.format(removed=removed), encoding="utf-8")
    return path


def test_the_use_is_gone_on_that_backbone_only(tmp_path: Path) -> None:
    path = write(tmp_path, '["weights.lora"]')
    assert [u.name for u in load_recipe(path).uses] == ["tokens.rare", "weights.lora"]
    assert [u.name for u in load_recipe(path, backbone="small").uses] == ["tokens.rare"]


@pytest.mark.parametrize(
    ("removed", "message"),
    [('["weights.lorra"]', "did you mean 'weights.lora'"), ('"weights.lora"', "a list of names")],
)
def test_what_cannot_be_removed_is_refused(tmp_path: Path, removed: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, removed), backbone="small")


def test_pretrain_phases_come_first_and_are_marked(tmp_path: Path) -> None:
    path = write(tmp_path, "[]")
    path.write_text(
        path.read_text("utf-8") + '\n[[pretrain]]\nname = "all"\nsteps = 2\nsource = "x"\n', "utf-8"
    )
    phases = load_recipe(path).phases
    assert [(p.name, p.pretrain, p.source) for p in phases] == [
        ("all", True, "x"),
        ("tune", False, ""),
    ]
