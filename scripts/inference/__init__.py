"""Modules of ``scripts/bench_inference.py``."""
