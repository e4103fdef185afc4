"""Suites: which subjects and which prompts, as data."""

from __future__ import annotations

from pcs_bench.suites.own import make, make_like
from pcs_bench.suites.reading import ids, load
from pcs_bench.suites.suite import BenchPrompt, BenchSubject, Suite

__all__ = ["BenchPrompt", "BenchSubject", "Suite", "ids", "load", "make", "make_like"]
