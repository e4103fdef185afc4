"""What a prompt says beyond the 38 words that Mini reads at once is drawn."""

from __future__ import annotations

import pytest
import torch

from pcs_core import open_backbone, sample
from pcs_mini.plugin import folder

pytestmark = pytest.mark.skipif(
    not (folder() / "model_index.json").exists(), reason="a source tree without trained weights"
)

FILLED = "a photo, " * 13


def redness(images: torch.Tensor) -> torch.Tensor:
    """Return by how much red outweighs blue in each picture [n], middle half of it."""
    middle = images[..., 32:96, 32:96].mean((2, 3))
    return middle[:, 0] - middle[:, 2]


def test_a_colour_in_the_second_window_is_seen() -> None:
    mini = open_backbone("mini")
    assert len(mini.tokenizer.encode(FILLED)) >= mini.tokenizer.length - 2
    drawn = {
        colour: redness(
            sample(None, mini, f"{FILLED}a {colour} car", count=2, seed=3, steps=8, scale=5.0)
        )
        for colour in ("red", "blue")
    }
    assert (drawn["red"] > 0.15).all()
    assert (drawn["blue"] < -0.1).all()
