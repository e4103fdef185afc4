"""How many inputs are drawn: a few in `make test`, always the same; many and new ones in `make test-all`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

COUNT = os.environ.get("PCS_EXAMPLES")

settings.register_profile(
    "pcs",
    max_examples=int(COUNT or 20),
    derandomize=COUNT is None,
    deadline=None,
    print_blob=True,
    # a folder made anew by each example is what the fixture is for
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("pcs")
