"""Tests leave nothing among a user's files: what commands remember goes into a folder of their own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "PCS_CACHE" not in os.environ:
    os.environ["PCS_CACHE"] = tempfile.mkdtemp(prefix="pcs-cache-")
    atexit.register(shutil.rmtree, os.environ["PCS_CACHE"], ignore_errors=True)
