"""Tests leave nothing among a user's files: what commands remember goes into a folder of their own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from zlib import crc32

import pytest

if "PCS_CACHE" not in os.environ:
    os.environ["PCS_CACHE"] = tempfile.mkdtemp(prefix="pcs-cache-")
    atexit.register(shutil.rmtree, os.environ["PCS_CACHE"], ignore_errors=True)

os.environ.setdefault("PCS_DAY", str(datetime.now(UTC).toordinal()))  # of all processes of a run
DAYS = 3
"""Tests marked ``rotated`` are all seen in so many days, where the mark names no other number of them."""
BEFORE = pytest.StashKey[set[str]]()
TOOLS = {".pytest_cache", ".hypothesis", "build"}
"""What tools write beside the checkout's files."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is another day's turn of the tests marked ``rotated``: three days see them all.

    ``rotated(6)`` are seen in six days, and of ``rotated(3, "file")`` all in a file on one day, for what they
    share takes longer than they. With a recipe or technique more such tests grow by a dozen. One that
    is named runs on any day. Where a test starts follows from its name, so that those that run once do not all
    run on one day.
    """
    today, counts = int(os.environ["PCS_DAY"]), Counter[str]()
    for item in items:
        if mark := item.get_closest_marker("rotated"):
            days, together = (*mark.args, *(DAYS, "")[len(mark.args) :])
            test = item.nodeid.partition("::" if together == "file" else "[")[0]
            if (crc32(test.encode()) + counts[test] + today) % days:
                item.add_marker("slow")
            counts[test] += together != "file"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is in the checkout before the first test."""
    session.config.stash[BEFORE] = set(os.listdir(session.config.rootpath))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail when a test left a file or folder in the checkout: it would be committed with the next change."""
    yield  # the summary first
    if hasattr(session.config, "workerinput"):
        return  # the process that started this one looks
    left = set(os.listdir(session.config.rootpath)) - session.config.stash[BEFORE] - TOOLS
    if left:
        pytest.exit(f"tests left these in {session.config.rootpath}: {sorted(left)}", returncode=1)
