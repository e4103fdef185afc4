"""Tests leave nothing among a user's files: what commands remember goes into a folder of their own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

if "PCS_CACHE" not in os.environ:
    os.environ["PCS_CACHE"] = tempfile.mkdtemp(prefix="pcs-cache-")
    atexit.register(shutil.rmtree, os.environ["PCS_CACHE"], ignore_errors=True)

BEFORE = pytest.StashKey[set[str]]()
TOOLS = {".pytest_cache", ".hypothesis", "build"}
"""What tools write beside the checkout's files."""


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
