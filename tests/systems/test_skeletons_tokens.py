"""Every recipe that is for masked tokens, on the layout of aMUSEd, as it is written.

Only numbers of steps and pictures and sizes of pictures are smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcs_testing.whole_run import systems_for

FAMILY = "tokens"


@pytest.mark.rotated(6)
@pytest.mark.parametrize("system", systems_for(FAMILY))
def test_as_it_is_written(system: str, runs_on_skeleton: Callable[[str, str], None]) -> None:
    runs_on_skeleton(system, FAMILY)
