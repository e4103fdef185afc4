"""Every recipe that is for clips, on the layout of SD 1.5 with motion modules of v2, as it is written.

Only numbers of steps and pictures and sizes of pictures are smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcs_testing.whole_run import systems_for

FAMILY = "animatediff"
SLOW = {"lycoris", "mix-of-show", "p-plus", "perfusion"}
SYSTEMS = [
    pytest.param(id, marks=pytest.mark.slow if id in SLOW else ()) for id in systems_for(FAMILY)
]


@pytest.mark.rotated
@pytest.mark.parametrize("system", SYSTEMS)
def test_as_it_is_written(system: str, runs_on_skeleton: Callable[[str, str], None]) -> None:
    runs_on_skeleton(system, FAMILY)
