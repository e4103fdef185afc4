"""Every recipe that is for clips, on the layout of text-to-video-ms-1.7b, as it is written.

Only numbers of steps and pictures and sizes of pictures are smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcs_core import load_recipe
from pcs_core.catalogue import catalogue

FAMILY = "video"
MARKS: dict[str, pytest.MarkDecorator] = {
    "perfusion": pytest.mark.slow,
    "mix-of-show": pytest.mark.slow,
    "p-plus": pytest.mark.slow,
}
SYSTEMS = [
    pytest.param(id, marks=MARKS.get(id, ()))
    for id in sorted(catalogue().recipe_files())
    if FAMILY in load_recipe(id).backbones
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_as_it_is_written(system: str, runs_on_skeleton: Callable[[str, str], None]) -> None:
    runs_on_skeleton(system, FAMILY)
