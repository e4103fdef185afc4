"""Every recipe that is for FLUX.1, on the layout of FLUX.1 dev, as it is written.

Only numbers of steps and pictures and sizes of pictures are smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcs_testing.whole_run import systems_for

FAMILY = "flux"
# its fits of other recipes are of thousands of steps, and the quick stand-in is refused here
SYSTEMS = [id for id in systems_for(FAMILY) if id != "colour-shift-protection"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_as_it_is_written(system: str, runs_on_skeleton: Callable[[str, str], None]) -> None:
    runs_on_skeleton(system, FAMILY)


@pytest.mark.slow
def test_references_of_kontext(runs_on_skeleton: Callable[[str, str], None]) -> None:
    runs_on_skeleton("kontext", "flux-kontext")
