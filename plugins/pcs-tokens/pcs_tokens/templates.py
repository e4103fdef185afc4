"""Neutral caption templates, so that a token does not come to mean a style or a place."""

from __future__ import annotations

TEMPLATES: tuple[str, ...] = (
    "a photo of {token}",
    "a picture of {token}",
    "a drawing of {token}",
    "an image of {token}",
    "{token}",
)
"""In the manner of Textual Inversion's neutral prompts (arXiv:2208.01618, section 4)."""
