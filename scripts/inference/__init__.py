"""Rooms of ``scripts/bench_inference.py``."""
