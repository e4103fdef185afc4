"""Fewer evaluations at sampling: techniques, presets of them, and the gate they pass."""
